//! Model of sleeping and waking: no message is slept over, under every interleaving and every
//! legal reordering (D6).
//!
//! Run by `cargo xtask loom`.

use loom::sync::Arc;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ploop_io::WakeWord;

struct Shared {
    word: WakeWord,
    inbox: AtomicU32,
    /// The eventfd.
    bell: Notify,
}

fn shared() -> Arc<Shared> {
    let (inbox, bell) = (AtomicU32::new(0), Notify::new());
    Arc::new(Shared { word: WakeWord::new(), inbox, bell })
}

fn send(shared: &Shared) {
    shared.inbox.fetch_add(1, Ordering::Release);
    if shared.word.notify() {
        shared.bell.notify();
    }
}

/// The owner's loop: empty the inbox, announce, look again, sleep until the bell rings.
fn receive(shared: &Shared, wanted: u32) {
    let mut got = 0;
    loop {
        got += shared.inbox.swap(0, Ordering::Acquire);
        if got == wanted {
            return;
        }
        if shared.word.announce() && shared.inbox.load(Ordering::Relaxed) == 0 {
            // A sleep that nobody ends is a deadlock, which the model reports.
            shared.bell.wait();
        }
        shared.word.awake();
    }
}

#[test]
fn one_message_is_not_slept_over() {
    loom::model(|| {
        let there = shared();
        let sender = {
            let there = there.clone();
            thread::spawn(move || send(&there))
        };
        receive(&there, 1);
        sender.join().unwrap();
    });
}

#[test]
fn two_senders_and_a_sleeper() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let there = shared();
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let there = there.clone();
                thread::spawn(move || send(&there))
            })
            .collect();
        receive(&there, 2);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

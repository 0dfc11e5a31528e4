//! Who has a place at the control socket: nobody keeps others out by saying nothing.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clients served at a time.
pub const MAX_CLIENTS: usize = 16;
/// When all places are taken, a client that has said nothing gives its up after this long.
const SILENT: Duration = Duration::from_millis(50);
/// So does one that has said something, but nothing for this long, and waits for nothing.
const IDLE: Duration = Duration::from_secs(10);

/// The places of one socket.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<Vec<Place>>>);

#[derive(Debug)]
struct Place {
    uid: u32,
    /// To cut it off.
    stream: UnixStream,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// It has sent a whole message.
    spoke: AtomicBool,
    /// It waits for an answer, or holds a pause.
    busy: AtomicBool,
    /// When it came, or was answered last.
    last: Mutex<Instant>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    places: Places,
    state: Arc<State>,
}

impl Places {
    /// A place for a client of a user. When there is none, a client that does not use its place
    /// loses it; `None`: all do.
    #[must_use]
    pub fn take(&self, stream: &UnixStream, uid: u32) -> Option<Taken> {
        let stream = stream.try_clone().ok()?;
        let mut places = self.places();
        if places.len() >= MAX_CLIENTS && idle(&places, uid).is_none() {
            // One that has just come may be about to speak.
            let coming = places.iter().any(|place| !place.state.spoke());
            if !coming {
                return None;
            }
            drop(places);
            std::thread::sleep(SILENT);
            places = self.places();
        }
        if places.len() >= MAX_CLIENTS {
            let unused = idle(&places, uid)?;
            let gone = places.remove(unused);
            let _ = gone.stream.shutdown(Shutdown::Both);
        }
        let state = Arc::new(State {
            spoke: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
        });
        places.push(Place { uid, stream, state: Arc::clone(&state) });
        drop(places);
        Some(Taken { places: self.clone(), state })
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place to give to a client of a user, the longest unused first: of a silent client, of an
/// idle one, or of a user who has more than a fair share of them while this one has less.
fn idle(places: &[Place], uid: u32) -> Option<usize> {
    let of = |user: u32| places.iter().filter(|place| place.uid == user).count();
    let mut users: Vec<u32> = places.iter().map(|place| place.uid).chain([uid]).collect();
    users.sort_unstable();
    users.dedup();
    let share = MAX_CLIENTS / users.len();
    let lacking = of(uid) < share;
    let unused = |place: &Place| {
        let limit = if !place.state.spoke() {
            SILENT
        } else if place.state.busy.load(Ordering::SeqCst) {
            return None;
        } else if lacking && of(place.uid) > share {
            Duration::ZERO
        } else {
            IDLE
        };
        let unused = place.state.last().elapsed();
        (unused >= limit).then_some(unused)
    };
    let found = places.iter().enumerate().filter_map(|(n, place)| Some((unused(place)?, n)));
    found.max().map(|(_, n)| n)
}

impl State {
    fn spoke(&self) -> bool {
        self.spoke.load(Ordering::SeqCst)
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// It has sent a message, which is worked on.
    pub fn asks(&self) {
        self.state.busy.store(true, Ordering::SeqCst);
        self.state.spoke.store(true, Ordering::SeqCst);
    }

    /// It was answered; unless it holds something, its place may be wanted.
    pub fn answered(&self, holds: bool) {
        *self.state.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.state.busy.store(holds, Ordering::SeqCst);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.places.places().retain(|place| !Arc::ptr_eq(&place.state, &self.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(places: &Places, uid: u32) -> (UnixStream, Option<Taken>) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let taken = places.take(&ours, uid);
        (theirs, taken)
    }

    fn full(places: &Places, uid: u32) -> Vec<(UnixStream, Option<Taken>)> {
        let all: Vec<_> = (0..MAX_CLIENTS).map(|_| client(places, uid)).collect();
        assert!(all.iter().all(|(_, taken)| taken.is_some()));
        all
    }

    fn talk(clients: &[(UnixStream, Option<Taken>)]) {
        for (_, taken) in clients {
            taken.as_ref().unwrap().asks();
            taken.as_ref().unwrap().answered(false);
        }
    }

    #[test]
    fn silent_clients_make_room_and_talking_ones_do_not() {
        let places = Places::default();
        let mut first = full(&places, 1);
        let second = full(&places, 1);
        assert_eq!(places.places().len(), MAX_CLIENTS);
        // The first ones were cut off, so their places are the others'.
        first.clear();
        assert_eq!(places.places().len(), MAX_CLIENTS);
        talk(&second);
        assert!(client(&places, 1).1.is_none());
        drop(second);
        assert!(client(&places, 1).1.is_some());
    }

    #[test]
    fn each_user_has_a_share_but_not_of_those_who_wait() {
        let places = Places::default();
        let one = full(&places, 1);
        talk(&one);
        let other: Vec<_> = (0..MAX_CLIENTS / 2).map(|_| client(&places, 2)).collect();
        assert!(other.iter().all(|(_, taken)| taken.is_some()));
        talk(&other);
        assert!(client(&places, 2).1.is_none() && client(&places, 1).1.is_none());
        drop((one, other));
        let busy = full(&places, 1);
        busy.iter().for_each(|(_, taken)| taken.as_ref().unwrap().asks());
        assert!(client(&places, 2).1.is_none());
    }
}

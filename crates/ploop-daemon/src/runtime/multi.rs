//! Several front ends on one queue: tags and watch keys are kept apart, turns are fair.

use ploop_engine::{FrontEnd, Intake, Limits, Outcome, Request, Stride};
use ploop_io::{Command, Interest};
use std::collections::HashMap;

/// The front ends of one queue as one.
pub struct MultiFront {
    children: Vec<Box<dyn FrontEnd>>,
    /// Places of those that are gone.
    empty: Vec<usize>,
    tags: Tags,
    keys: Keys,
    /// Who is polled first; moves on every turn so that no child starves another.
    first: usize,
    stride: Stride,
}

/// Requests in flight: the engine's tag is an index here.
#[derive(Default)]
struct Tags {
    open: Vec<(usize, u64)>,
    free: Vec<usize>,
}

/// Watches: the engine's key never comes back while a late event of an old one may be on its way.
#[derive(Default)]
struct Keys {
    by_key: HashMap<u32, (usize, u32)>,
    by_child: HashMap<(usize, u32), u32>,
    next: u32,
}

impl Tags {
    fn take(&mut self, owner: (usize, u64)) -> u64 {
        let index = if let Some(index) = self.free.pop() {
            self.open[index] = owner;
            index
        } else {
            self.open.push(owner);
            self.open.len() - 1
        };
        index as u64
    }

    fn give_back(&mut self, tag: u64) -> Option<(usize, u64)> {
        let index = usize::try_from(tag).ok()?;
        let owner = *self.open.get(index)?;
        self.free.push(index);
        Some(owner)
    }
}

impl Keys {
    fn take(&mut self, owner: (usize, u32)) -> u32 {
        if let Some(&key) = self.by_child.get(&owner) {
            return key;
        }
        while self.by_key.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let key = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_key.insert(key, owner);
        self.by_child.insert(owner, key);
        key
    }

    fn fired(&mut self, key: u32) -> Option<(usize, u32)> {
        let owner = self.by_key.remove(&key)?;
        self.by_child.remove(&owner);
        Some(owner)
    }

    fn forget(&mut self, owner: (usize, u32)) -> Option<u32> {
        let key = self.by_child.remove(&owner)?;
        self.by_key.remove(&key);
        Some(key)
    }
}

impl MultiFront {
    /// One front end made of several.
    #[must_use]
    pub fn new(children: Vec<Box<dyn FrontEnd>>) -> Self {
        let (tags, keys) = (Tags::default(), Keys::default());
        let stride = Stride::default();
        let mut multi = Self { children, empty: Vec::new(), tags, keys, first: 0, stride };
        multi.set_stride();
        multi
    }

    /// One more. It gets the place of one that is gone, if there is such a place.
    pub fn add(&mut self, child: Box<dyn FrontEnd>) {
        match self.empty.pop() {
            Some(place) => self.children[place] = child,
            None => self.children.push(child),
        }
        self.set_stride();
    }

    fn set_stride(&mut self) {
        let strides = self.children.iter().map(|child| child.stride());
        self.stride = strides.reduce(Stride::and).unwrap_or_default();
    }
}

/// In the place of a front end that is gone.
struct Nobody;

impl FrontEnd for Nobody {
    fn poll(&mut self, _intake: &mut dyn Intake) {}
    fn ready(&mut self, _key: u32, _events: i32) {}
    fn complete(&mut self, _tag: u64, _outcome: Outcome) {}
    fn finished(&self) -> bool {
        true
    }
}

/// What one child sees of the queue.
struct ChildIntake<'a> {
    child: usize,
    inner: &'a mut dyn Intake,
    tags: &'a mut Tags,
    keys: &'a mut Keys,
}

impl Intake for ChildIntake<'_> {
    fn room(&self) -> usize {
        self.inner.room()
    }

    fn push(&mut self, mut request: Request) {
        request.tag = self.tags.take((self.child, request.tag));
        self.inner.push(request);
    }

    fn watch(&mut self, fd: i32, interest: Interest, key: u32) {
        let key = self.keys.take((self.child, key));
        self.inner.watch(fd, interest, key);
    }

    fn unwatch(&mut self, key: u32) {
        if let Some(key) = self.keys.forget((self.child, key)) {
            self.inner.unwatch(key);
        }
    }

    unsafe fn command(&mut self, key: u32, command: Command) -> bool {
        let key = self.keys.take((self.child, key));
        // SAFETY: the same promise, passed on.
        unsafe { self.inner.command(key, command) }
    }

    fn lend(&mut self, count: u16) -> Option<u16> {
        self.inner.lend(count)
    }

    fn poll_at(&mut self, nanos: u64) {
        self.inner.poll_at(nanos);
    }

    fn now(&self) -> u64 {
        self.inner.now()
    }

    fn stopping(&self) -> bool {
        self.inner.stopping()
    }
}

impl FrontEnd for MultiFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        let count = self.children.len();
        for turn in 0..count {
            let child = (self.first + turn) % count;
            self.children[child].poll(&mut ChildIntake {
                child,
                inner: &mut *intake,
                tags: &mut self.tags,
                keys: &mut self.keys,
            });
            if self.children[child].gone() {
                // Its memory goes now; a late event of its watches finds nobody.
                self.children[child] = Box::new(Nobody);
                self.empty.push(child);
                self.set_stride();
            }
        }
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
    }

    fn ready(&mut self, key: u32, events: i32) {
        if let Some((child, key)) = self.keys.fired(key) {
            self.children[child].ready(key, events);
        }
    }

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        if let Some((child, tag)) = self.tags.give_back(tag) {
            self.children[child].complete(tag, outcome);
        }
    }

    fn flush_replies(&mut self) {
        for child in &mut self.children {
            child.flush_replies();
        }
    }

    fn renewed(&mut self, limits: Limits) {
        for child in &mut self.children {
            child.renewed(limits);
        }
    }

    fn stride(&self) -> Stride {
        self.stride
    }

    fn finished(&self) -> bool {
        self.children.iter().all(|child| child.finished())
    }
}

#[cfg(test)]
mod tests {
    use super::MultiFront;
    use ploop_engine::{Buffer, Flags, FrontEnd, Intake, Operation, Outcome, Request};
    use ploop_io::Interest;
    use std::cell::RefCell;
    use std::rc::Rc;

    type Log = Rc<RefCell<Vec<(usize, u64)>>>;

    struct Child {
        me: usize,
        tags: Vec<u64>,
        log: Log,
    }

    impl FrontEnd for Child {
        fn poll(&mut self, intake: &mut dyn Intake) {
            intake.watch(3, Interest::Read, 7);
            while let (Some(tag), true) = (self.tags.pop(), intake.room() > 0) {
                intake.push(Request {
                    tag,
                    operation: Operation::Flush,
                    flags: Flags::default(),
                    offset: 0,
                    len: 0,
                    buffer: Buffer::NONE,
                });
            }
        }
        fn ready(&mut self, key: u32, _events: i32) {
            self.log.borrow_mut().push((self.me, 1000 + u64::from(key)));
        }
        fn complete(&mut self, tag: u64, _outcome: Outcome) {
            self.log.borrow_mut().push((self.me, tag));
        }
        fn finished(&self) -> bool {
            self.tags.is_empty()
        }
    }

    #[derive(Default)]
    struct Queue {
        pushed: Vec<u64>,
        watched: Vec<u32>,
    }

    impl Intake for Queue {
        fn room(&self) -> usize {
            16
        }
        fn push(&mut self, request: Request) {
            self.pushed.push(request.tag);
        }
        fn watch(&mut self, _fd: i32, _interest: Interest, key: u32) {
            self.watched.push(key);
        }
        fn unwatch(&mut self, key: u32) {
            self.watched.retain(|&k| k != key);
        }
        fn poll_at(&mut self, _nanos: u64) {}
        fn now(&self) -> u64 {
            0
        }
        fn stopping(&self) -> bool {
            false
        }
    }

    #[test]
    fn equal_tags_and_keys_of_two_children_do_not_meet() {
        let log: Log = Log::default();
        let child = |me| Child { me, tags: vec![5, 5, u64::MAX], log: Rc::clone(&log) };
        let mut multi = MultiFront::new(vec![Box::new(child(0)), Box::new(child(1))]);
        let mut queue = Queue::default();
        multi.poll(&mut queue);
        assert_eq!(queue.pushed, [0, 1, 2, 3, 4, 5]);
        assert_eq!(queue.watched, [0, 1]);
        multi.ready(1, 1);
        multi.ready(1, 1);
        for tag in [3, 0, 5] {
            multi.complete(tag, Ok(0));
        }
        assert_eq!(*log.borrow(), [(1, 1007), (1, u64::MAX), (0, u64::MAX), (1, 5)]);
        assert!(multi.finished());
    }
}

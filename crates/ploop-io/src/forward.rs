//! `Io` through a box or a reference, so that code written for one engine takes any.

use std::io;
use std::time::Duration;

use crate::{Command, Completion, Interest, Io, Op, Waker};

macro_rules! forward {
    ($($target:ty),*) => {$(
        impl<T: Io + ?Sized> Io for $target {
            unsafe fn push(&mut self, op: Op) {
                // SAFETY: the same promise, passed on.
                unsafe { (**self).push(op) }
            }
            fn submit(&mut self) -> io::Result<()> {
                (**self).submit()
            }
            fn reap(&mut self, out: &mut Vec<Completion>) {
                (**self).reap(out);
            }
            fn wait(
                &mut self,
                timeout: Option<Duration>,
                idle: &dyn Fn() -> bool,
            ) -> io::Result<()> {
                (**self).wait(timeout, idle)
            }
            fn waker(&self) -> Waker {
                (**self).waker()
            }
            fn watch(&mut self, fd: i32, interest: Interest, token: u64) {
                (**self).watch(fd, interest, token);
            }
            fn unwatch(&mut self, token: u64) {
                (**self).unwatch(token);
            }
            unsafe fn command(&mut self, command: Command) -> bool {
                // SAFETY: the same promise, passed on.
                unsafe { (**self).command(command) }
            }
            fn lend(&mut self, count: u16) -> Option<u16> {
                (**self).lend(count)
            }
        }
    )*};
}

forward!(&mut T, Box<T>);

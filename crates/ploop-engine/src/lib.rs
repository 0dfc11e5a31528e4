//! The request path and the keeper of a ploop disk.

pub mod front;
pub mod remote;
pub mod spec;
pub use front::{
    Buffer, Errno, ExtentRecord, Flags, FrontEnd, Intake, Limits, Operation, Outcome, Request,
};
pub use spec::{CloseReport, DeviceOptions, DeviceSpec, LevelKind, LevelSpec, OnEnospc};

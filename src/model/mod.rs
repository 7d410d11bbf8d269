//! The types that the parts share. Pure: no clock, no I/O, no runtime.

mod asset;
mod event;
mod ids;
mod raw;
mod time;

pub use asset::{Action, AssetName};
pub use event::EventHead;
pub use ids::{Cursor, Epoch, ParseCursorError, Seq, SourceId};
pub use raw::{Origin, RawRecord, Rejected};
pub use time::{ParseTimeError, Time};

//! The types shared by all parts. Pure: no clock, no I/O, no runtime.

mod asset;
mod attribution;
mod draft;
mod event;
mod hash;
mod ids;
mod novelty;
mod operation;
mod raw;
mod seed;
mod session;
mod time;

pub use asset::{Action, AssetName, AssetObject};
pub use attribution::{Assumed, Attribution, Confidence, Deployment, Human, OnBehalfOf, Principal, Tool, Workload};
pub use draft::{
    AssetKind, AssetRef, Association, Draft, DraftAction, KeyedSet, Operation, RecordInfo, RelationChange, Step,
    UniqueId,
};
pub use event::EventHead;
pub use hash::{FastMap, FastState};
pub use ids::{Cursor, Epoch, ParseCursorError, Seq, SourceId};
pub use novelty::{Novelty, NoveltyLimits};
pub use operation::{DeploymentBegun, OperationRecord, Phase};
pub use raw::{Origin, RawRecord, Rejected};
pub use seed::{Seed, SeedDocument, Tally, TallyCounts};
pub use session::{Caller, Evidence, Session};
pub use time::{ParseTimeError, Time, parse_duration};

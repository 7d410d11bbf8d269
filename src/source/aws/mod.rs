//! What the sources that read from AWS share: credentials and clients, what an error means and what to do about it,
//! CloudTrail's objects in S3 and how they are read.

pub(crate) mod access;
pub(crate) mod error;
pub(crate) mod object;
pub(crate) mod reader;
pub(crate) mod trail_key;

pub(crate) use access::{Access, Connector};
pub(crate) use error::AwsError;

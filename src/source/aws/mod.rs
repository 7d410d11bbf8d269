//! Shared by the sources that read from AWS: credentials and clients, the meaning of errors and the advice for them,
//! and how CloudTrail's objects in S3 are read.

pub(crate) mod access;
pub(crate) mod error;
pub(crate) mod object;
pub(crate) mod reader;
pub(crate) mod trail_key;

pub(crate) use access::{Access, Connector};
pub(crate) use error::AwsError;

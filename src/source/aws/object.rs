//! Objects in S3, behind a trait so that their processing can be tested without a service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_smithy_types::byte_stream::ByteStream;

use super::error::classify;
use super::{AwsError, Connector};
use crate::metrics::Requests;

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectRef {
    pub(crate) bucket: String,
    /// The key, decoded.
    pub(crate) key: String,
    /// The bucket's region, if known.
    pub(crate) region: Option<String>,
}

impl ObjectRef {
    /// `s3://bucket/key`.
    pub(crate) fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// The content of an object, as a stream.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) stream: ByteStream,
    /// The content's length.
    pub(crate) bytes: Option<u64>,
    /// The ETag, which changes with the content.
    pub(crate) etag: String,
}

/// A listing to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
    /// Only names after this key.
    pub(crate) start_after: Option<&'a str>,
    /// Whether to list the folders right below the prefix, rather than every object.
    pub(crate) folders: bool,
}

/// A page of a listing, in key order: up to 1,000 keys or folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Keys, or the prefixes of folders, each with its `/`.
    pub(crate) names: Vec<String>,
    pub(crate) more: Option<String>,
}

/// The S3 calls in use.
#[async_trait]
pub(crate) trait Objects: Send + Sync {
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html>
    async fn get(&self, object: &ObjectRef) -> Result<Body, AwsError>;
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
    async fn list(&self, listing: Listing<'_>, token: Option<String>) -> Result<Listed, AwsError>;
}

/// S3, with a client per region of the buckets.
pub(crate) struct S3 {
    connector: Connector,
    endpoint_url: Option<String>,
    /// The region for buckets of unknown region.
    region: Option<String>,
    clients: Mutex<HashMap<Option<String>, Client>>,
    requests: Requests,
}

impl S3 {
    pub(crate) fn new(
        connector: Connector,
        region: Option<String>,
        endpoint_url: Option<String>,
        requests: Requests,
    ) -> Arc<Self> {
        Arc::new(Self { connector, endpoint_url, region, clients: Mutex::default(), requests })
    }

    fn client(&self, region: Option<&str>) -> Client {
        let region = region.or(self.region.as_deref()).map(str::to_owned);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let make = |region: &Option<String>| {
            let config = self.connector.config(region.as_deref(), self.endpoint_url.as_deref());
            let config = aws_sdk_s3::config::Builder::from(&config)
                // A custom endpoint seldom has a host name per bucket.
                .force_path_style(self.endpoint_url.is_some())
                .build();
            Client::from_conf(config)
        };
        clients.entry(region).or_insert_with_key(make).clone()
    }
}

#[async_trait]
impl Objects for S3 {
    async fn get(&self, object: &ObjectRef) -> Result<Body, AwsError> {
        self.requests.count("GetObject");
        let client = self.client(object.region.as_deref());
        let request = client.get_object().bucket(&object.bucket).key(&object.key);
        match Box::pin(request.send()).await {
            Ok(answer) => Ok(Body {
                bytes: answer.content_length.and_then(|length| u64::try_from(length).ok()),
                etag: answer.e_tag.unwrap_or_default(),
                stream: answer.body,
            }),
            Err(error) => {
                let grant = format!(
                    "s3:GetObject on arn:aws:s3:::{}/* (and kms:Decrypt on its KMS key, if it has one)",
                    object.bucket
                );
                Err(classify(&error, &grant))
            }
        }
    }

    async fn list(&self, listing: Listing<'_>, token: Option<String>) -> Result<Listed, AwsError> {
        self.requests.count("ListObjectsV2");
        let request = self
            .client(None)
            .list_objects_v2()
            .bucket(listing.bucket)
            .prefix(listing.prefix)
            .set_start_after(listing.start_after.map(str::to_owned))
            .set_delimiter(listing.folders.then(|| "/".to_owned()))
            .set_continuation_token(token);
        let answer = Box::pin(request.send())
            .await
            .map_err(|error| classify(&error, &format!("s3:ListBucket on arn:aws:s3:::{}", listing.bucket)))?;
        let names = if listing.folders {
            answer.common_prefixes.unwrap_or_default().into_iter().filter_map(|folder| folder.prefix).collect()
        } else {
            answer.contents.unwrap_or_default().into_iter().filter_map(|object| object.key).collect()
        };
        Ok(Listed { names, more: answer.next_continuation_token.filter(|token| !token.is_empty()) })
    }
}

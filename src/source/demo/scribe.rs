//! Writes CloudTrail records: the envelope of a call, ids of AWS's form, and the sign-in before a session's first call.
//!
//! Record contents: <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html>.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::people::{Caller, Session, Who};
use crate::model::Time;

/// An API call and its response.
#[derive(Debug)]
pub(super) struct Call {
    /// The service's endpoint prefix: `ec2`.
    pub(super) service: &'static str,
    /// The event name, with the version suffix where CloudTrail has one.
    pub(super) name: &'static str,
    pub(super) request: Value,
    pub(super) response: Value,
    read_only: bool,
    error: Option<(&'static str, String)>,
    resources: Option<Value>,
    additional: Option<Value>,
    bucket: Option<String>,
}

impl Call {
    pub(super) fn new(service: &'static str, name: &'static str, request: Value, response: Value) -> Self {
        Self {
            service,
            name,
            request,
            response,
            read_only: false,
            error: None,
            resources: None,
            additional: None,
            bucket: None,
        }
    }

    /// A call of EC2 whose response only confirms it.
    pub(super) fn ec2_done(name: &'static str, request: Value) -> Self {
        Self::new("ec2", name, request, json!({ "_return": true }))
    }

    pub(super) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(super) fn refused(mut self, code: &'static str, message: String) -> Self {
        self.error = Some((code, message));
        self.response = Value::Null;
        self
    }

    pub(super) fn resource(mut self, account: &str, kind: &str, arn: &str) -> Self {
        let resource = json!({ "accountId": account, "type": kind, "ARN": arn });
        match &mut self.resources {
            Some(Value::Array(list)) => list.push(resource),
            _ => self.resources = Some(json!([resource])),
        }
        self
    }

    /// Turns it into a call of S3, where the bucket is the host.
    pub(super) fn on_bucket(mut self, bucket: &str) -> Self {
        self.bucket = Some(bucket.to_owned());
        self
    }
}

/// Where a call is made: CloudTrail's `recipientAccountId` and `awsRegion`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) account: &'static str,
    pub(super) region: &'static str,
}

impl Place {
    /// IAM and the other global services log in us-east-1.
    pub(super) fn global(self) -> Self {
        Self { region: "us-east-1", ..self }
    }
}

/// Members in CloudTrail's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_version: &'static str,
    user_identity: Value,
    event_time: String,
    event_source: String,
    event_name: &'a str,
    aws_region: &'a str,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: &'a str,
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    request_parameters: Value,
    response_elements: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_event_data: Option<Value>,
    #[serde(rename = "requestID")]
    request_id: String,
    #[serde(rename = "eventID")]
    event_id: String,
    read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Value>,
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    management_event: bool,
    recipient_account_id: &'a str,
    event_category: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_details: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_credential_from_console: Option<&'static str>,
}

/// Draws random values and ids, and writes records.
#[derive(Debug)]
pub(super) struct Scribe {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Time,
    /// Assets that an incident still needs: nothing else removes them.
    pub(super) pinned: BTreeSet<String>,
    sessions: BTreeMap<(Who, &'static str), Session>,
    mark: String,
    names: u32,
    written: VecDeque<String>,
}

impl Scribe {
    pub(super) fn new(seed: u64, now: Time) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mark = format!("{:04x}", rng.u16(..));
        Self { rng, now, pinned: BTreeSet::new(), sessions: BTreeMap::new(), mark, names: 0, written: VecDeque::new() }
    }

    /// The oldest record not yet taken.
    pub(super) fn take(&mut self) -> Option<String> {
        self.written.pop_front()
    }

    /// A random element.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        self.index(from).and_then(|index| from.get(index))
    }

    /// The index of a random element.
    pub(super) fn index<T>(&mut self, from: &[T]) -> Option<usize> {
        (!from.is_empty()).then(|| self.rng.usize(..from.len()))
    }

    /// The index of a random element with a property.
    pub(super) fn index_where<T>(&mut self, from: &[T], fits: impl Fn(&Self, &T) -> bool) -> Option<usize> {
        let fitting: Vec<usize> =
            from.iter().enumerate().filter(|(_, element)| fits(self, element)).map(|(index, _)| index).collect();
        self.pick(&fitting).copied()
    }

    /// A random word of a list, which must not be empty.
    pub(super) fn word(&mut self, words: &[&'static str]) -> &'static str {
        self.pick(words).copied().unwrap_or_default()
    }

    /// Whether a one-in-`n` chance comes up.
    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    /// An EC2 id: `sg-0a1b2c3d4e5f60718`.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}-0{:016x}", self.rng.u64(..))
    }

    /// A name that no other world uses.
    pub(super) fn name(&mut self, base: &str) -> String {
        self.names += 1;
        format!("{base}-{}{:02x}", self.mark, self.names)
    }

    pub(super) fn uuid(&mut self) -> String {
        let bits = self.rng.u128(..);
        let (a, b, c) = (bits >> 96, (bits >> 80) & 0xffff, (bits >> 64) & 0xfff);
        let (d, e) = ((bits >> 48) & 0x3fff | 0x8000, bits & 0xffff_ffff_ffff);
        format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
    }

    /// `length` characters of an alphabet.
    pub(super) fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length).filter_map(|_| self.pick(alphabet).copied()).map(char::from).collect()
    }

    /// An access key id, marked as an example as in AWS's own documentation.
    pub(super) fn access_key(&mut self, prefix: &str) -> String {
        format!("{prefix}{}EXAMPLE", self.text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 9))
    }

    /// A unique id of IAM: `AROA…`.
    pub(super) fn iam_id(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 17))
    }

    /// Random Base64 text.
    pub(super) fn base64(&mut self, length: usize) -> String {
        self.text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", length)
    }

    /// A date as query-protocol services print it: `Jul 10, 2023, 11:54:39 AM`.
    pub(super) fn wire_date(&self) -> String {
        wire_date(self.now)
    }

    /// Records a call. If the caller's session is not open, it is opened first.
    pub(super) fn record(&mut self, place: Place, who: Who, call: Call) {
        let session = self.session(place, who);
        let caller = Caller::new(who, place, &session, &call);
        let line = self.envelope(place, &caller, call);
        self.written.push_back(line);
    }

    pub(super) fn session(&mut self, place: Place, who: Who) -> Session {
        /// Sessions last an hour; a person signs in again a little earlier.
        const LIFETIME_MILLIS: i64 = 55 * 60 * 1000;
        let key = (who.same_session_as(), place.account);
        if let Some(session) = self.sessions.get(&key)
            && self.now.millis() - session.opened.millis() < LIFETIME_MILLIS
        {
            return session.clone();
        }
        let session = Session::open(self, who);
        self.sessions.insert(key, session.clone());
        if let Some((opener, call)) = session.opening(self, place, who) {
            let line = self.envelope(place.global(), &opener, call);
            self.written.push_back(line);
        }
        session
    }

    fn envelope(&mut self, place: Place, caller: &Caller, call: Call) -> String {
        let request_id =
            if call.service == "s3" { self.text(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", 16) } else { self.uuid() };
        let mut response = call.response;
        if let (true, Value::Object(response)) = (call.service == "ec2", &mut response)
            && !response.keys().any(|key| key.ends_with("Response"))
        {
            response.insert("requestId".to_owned(), json!(request_id));
        }
        let (error_code, error_message) = call.error.as_ref().map(|(code, text)| (*code, text.as_str())).unzip();
        let additional = call.bucket.as_ref().map(|_| {
            json!({
                "SignatureVersion": "SigV4", "CipherSuite": "TLS_AES_128_GCM_SHA256",
                "AuthenticationMethod": "AuthHeader",
                "bytesTransferredIn": self.rng.u16(..900), "bytesTransferredOut": 0, "x-amz-id-2": self.base64(76),
            })
        });
        let record = Record {
            event_version: "1.11",
            user_identity: caller.identity.clone(),
            event_time: seconds(self.now),
            event_source: format!("{}.amazonaws.com", call.service),
            event_name: call.name,
            aws_region: place.region,
            source_ip_address: &caller.address,
            user_agent: &caller.agent,
            error_code,
            error_message,
            request_parameters: call.request,
            response_elements: response,
            additional_event_data: call.additional.or(additional),
            request_id,
            event_id: self.uuid(),
            read_only: call.read_only,
            resources: call.resources,
            event_type: if call.service == "signin" { "AwsConsoleSignIn" } else { "AwsApiCall" },
            api_version: (call.service == "lambda").then_some("2015-03-31"),
            management_event: true,
            recipient_account_id: place.account,
            event_category: "Management",
            tls_details: caller.over_tls.then(|| {
                let host = host(call.service, place.region, call.bucket.as_deref());
                json!({
                    "tlsVersion": "TLSv1.3", "cipherSuite": "TLS_AES_128_GCM_SHA256", "clientProvidedHostHeader": host,
                })
            }),
            session_credential_from_console: (caller.console && call.service != "signin").then_some("true"),
        };
        // Strings, numbers and maps with string keys only: it can't fail.
        serde_json::to_string(&record).unwrap_or_default()
    }

    /// The record of a console sign-in.
    pub(super) fn sign_in() -> Call {
        let mut call = Call::new("signin", "ConsoleLogin", Value::Null, json!({ "ConsoleLogin": "Success" }));
        call.additional = Some(json!({
            "LoginTo": "https://console.aws.amazon.com/console/home", "MobileVersion": "No", "MFAUsed": "Yes",
        }));
        call
    }
}

fn host(service: &str, region: &str, bucket: Option<&str>) -> String {
    match (service, bucket) {
        (_, Some(bucket)) => s3_host(bucket, region),
        ("iam", _) => "iam.amazonaws.com".to_owned(),
        ("signin", _) => format!("{region}.signin.aws.amazon.com"),
        _ => format!("{service}.{region}.amazonaws.com"),
    }
}

/// The virtual host of a bucket.
pub(super) fn s3_host(bucket: &str, region: &str) -> String {
    format!("{bucket}.s3.{region}.amazonaws.com")
}

/// RFC 3339 to the second, as CloudTrail writes times.
pub(super) fn seconds(time: Time) -> String {
    let text = time.to_string();
    text.split_once('.').map_or(text.clone(), |(whole, _)| format!("{whole}Z"))
}

pub(super) fn wire_date(time: Time) -> String {
    jiff::Timestamp::from_millisecond(time.millis())
        .map(|time| time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%b %-d, %Y, %-I:%M:%S %p").to_string())
        .unwrap_or_default()
}

/// EC2's wrapping of lists.
pub(super) fn items(list: Vec<Value>) -> Value {
    if list.is_empty() { json!({}) } else { json!({ "items": list }) }
}

/// EC2's tags.
pub(super) fn tag_set(tags: &[(&str, &str)]) -> Value {
    items(tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect())
}

/// The tags in a request of EC2 that creates something.
pub(super) fn tag_specification(kind: &str, tags: &[(&str, &str)]) -> Value {
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
    items(vec![json!({ "resourceType": kind, "tags": tags })])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_services_do() {
        let time: Time = "2023-07-10T11:04:39.120Z".parse().unwrap();
        assert_eq!(seconds(time), "2023-07-10T11:04:39Z");
        assert_eq!(wire_date(time), "Jul 10, 2023, 11:04:39 AM");
        assert_eq!(wire_date("2026-01-05T00:00:09Z".parse().unwrap()), "Jan 5, 2026, 12:00:09 AM");
    }

    #[test]
    fn ids_have_the_form_of_aws() {
        let mut scribe = Scribe::new(1, Time::default());
        let id = scribe.id("vpc");
        assert!(id.len() == 21 && id.starts_with("vpc-0"), "{id}");
        let uuid = scribe.uuid();
        assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{uuid}");
        assert!(uuid.split('-').nth(2).unwrap().starts_with('4'), "{uuid}");
        assert_eq!(scribe.access_key("AKIA").len(), 20);
        assert_ne!(scribe.name("a"), scribe.name("a"));
    }
}

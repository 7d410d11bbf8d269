//! Incidents: a few related changes, minutes apart, among all others. Somebody makes a change worth an alert, and
//! somebody else reverts it.

use std::collections::VecDeque;

use serde_json::Value;

use super::people::Who;
use super::scribe::{Call, Scribe};
use super::site::Site;
use super::{identity, network, storage};
use crate::model::Time;

/// The first incident comes soon, so that a new user sees one.
const FIRST_MILLIS: i64 = 40_000;
/// The time between two incidents.
const PAUSE_SECS: std::ops::Range<i64> = 120..300;
const ADMINISTRATOR: &str = "arn:aws:iam::aws:policy/AdministratorAccess";

/// One step of an incident.
#[derive(Clone, Debug)]
enum Step {
    /// The stranger with the developer's key opens a group to the internet.
    OpenGroup,
    CloseGroup {
        group: String,
        rule: String,
    },
    /// The stranger tries to get more permissions, and fails.
    Probe,
    /// The platform administrator gives a service user all permissions, and an access key.
    Elevate,
    LowerAgain {
        user: String,
        key: String,
    },
    /// A bucket is made public.
    Publish,
    Conceal {
        bucket: String,
    },
}

/// The incident in progress, and its next step.
#[derive(Debug)]
pub(super) struct Stories {
    next: Time,
    count: usize,
    steps: VecDeque<(Time, Step)>,
}

impl Stories {
    pub(super) fn new(now: Time) -> Self {
        Self { next: Time::from_millis(now.millis() + FIRST_MILLIS), count: 0, steps: VecDeque::new() }
    }

    /// Starts an incident or executes its next step, when it is due.
    pub(super) fn advance(&mut self, scribe: &mut Scribe, site: &mut Site) {
        if self.steps.is_empty() && scribe.now >= self.next {
            self.begin(scribe);
        }
        if self.steps.front().is_some_and(|(due, _)| *due <= scribe.now)
            && let Some((_, step)) = self.steps.pop_front()
        {
            self.take(step, scribe, site);
            if self.steps.is_empty() {
                scribe.pinned.clear();
                let pause = scribe.rng.i64(PAUSE_SECS) * 1_000;
                self.next = Time::from_millis(scribe.now.millis() + pause);
            }
        }
    }

    fn begin(&mut self, scribe: &Scribe) {
        let steps: &[Step] = match self.count % 3 {
            0 => &[Step::Probe, Step::OpenGroup],
            1 => &[Step::Publish],
            _ => &[Step::Elevate],
        };
        self.count += 1;
        self.steps.extend(steps.iter().cloned().map(|step| (scribe.now, step)));
    }

    /// Schedules the step that reverts it.
    fn later(&mut self, scribe: &mut Scribe, step: Step) {
        let due = Time::from_millis(scribe.now.millis() + scribe.rng.i64(20_000..50_000));
        self.steps.push_back((due, step));
    }

    /// Executes a step; nothing happens if what it needs does not exist.
    fn take(&mut self, step: Step, scribe: &mut Scribe, site: &mut Site) -> Option<()> {
        match step {
            Step::Probe => probe(scribe, site),
            Step::OpenGroup => {
                let group = site.groups.iter().find(|group| group.base)?.id.clone();
                let why = "temporary";
                let rule = network::authorize(scribe, site, Who::Stranger, &group, 22, "0.0.0.0/0", why)?.id;
                scribe.pinned.extend([group.clone(), rule.clone()]);
                self.later(scribe, Step::CloseGroup { group, rule });
            }
            Step::CloseGroup { group, rule } => {
                network::revoke(scribe, site, Who::Responder, &group, &rule)?;
            }
            Step::Elevate => {
                let user = site.users.iter().find(|user| user.keys.len() < 2)?.name.clone();
                scribe.pinned.insert(user.clone());
                identity::attach_to_user(scribe, site, Who::PlatformAdmin, &user, ADMINISTRATOR)?;
                let key = identity::create_access_key(scribe, site, Who::PlatformAdmin, &user)?;
                self.later(scribe, Step::LowerAgain { user, key });
            }
            Step::LowerAgain { user, key } => {
                identity::deactivate_key(scribe, site, Who::Responder, &user, &key)?;
                identity::detach_from_user(scribe, site, Who::Responder, &user, ADMINISTRATOR)?;
                identity::delete_access_key(scribe, site, Who::SecurityAuditor, &user, &key)?;
            }
            Step::Publish => {
                let bucket = site.buckets.first()?.name.clone();
                scribe.pinned.insert(bucket.clone());
                storage::block_public_access(scribe, site, Who::DataEngineer, &bucket, false);
                storage::put_policy(scribe, site, Who::DataEngineer, &bucket, "*")?;
                self.later(scribe, Step::Conceal { bucket });
            }
            Step::Conceal { bucket } => {
                storage::delete_policy(scribe, site, Who::SecurityAuditor, &bucket)?;
                storage::block_public_access(scribe, site, Who::SecurityAuditor, &bucket, true);
            }
        }
        Some(())
    }
}

fn probe(scribe: &mut Scribe, site: &Site) {
    let caller = Who::Stranger.user_arn(site.place.account);
    for name in ["ListUsers", "GetAccountAuthorizationDetails", "ListAccessKeys"] {
        let message = format!(
            "User: {caller} is not authorized to perform: iam:{name} on resource: * because no identity-based policy \
             allows the iam:{name} action"
        );
        let call = Call::new("iam", name, Value::Null, Value::Null).read_only().refused("AccessDenied", message);
        scribe.record(site.place.global(), Who::Stranger, call);
    }
}

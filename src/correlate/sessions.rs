//! Who is behind temporary credentials: follows the access key of a call to the call that issued it, and from there to
//! that call's own caller.

use super::memory::Memory;
use crate::model::{Assumed, Caller, RecordInfo, Session, Time};

/// Roles may be assumed out of roles; AWS allows an hour for each, but no depth is documented.
const LONGEST_CHAIN: usize = 10;
/// For how long a session holds whose end is not told: the longest that there is (GetSessionToken, 36 hours).
const LONGEST_SESSION_MILLIS: i64 = 36 * 3_600_000;
/// CloudTrail's times are whole seconds, and of different machines.
const SLACK_MILLIS: i64 = 300_000;

/// Fills in the roles assumed before the one that made the call, and the person or program at the end of them.
///
/// A person whom the record itself tells stays, but for a session's name that merely looks like one.
pub(super) fn complete(sessions: &Memory<Session>, record: &mut RecordInfo) {
    let callers = callers(sessions, record.evidence.access_key.as_deref(), record.time);
    if callers.is_empty() {
        return;
    }
    let attribution = &mut record.attribution;
    let chain: Vec<_> = callers.iter().filter_map(|caller| caller.role_arn.clone()).collect();
    if !chain.is_empty() {
        attribution.assumed.get_or_insert_with(Assumed::default).chain = chain;
    }
    let is_guess = |how: &str| how == "sessionName";
    if attribution.human.as_ref().is_none_or(|human| is_guess(&human.how)) {
        // What was told nearest to the call is the strongest: it can be no one else's.
        let told = callers.iter().filter_map(|caller| caller.human.as_ref()).find(|human| !is_guess(&human.how));
        if let Some(human) = told {
            let mut human = human.clone();
            human.how = format!("chain.{}", human.how).into();
            attribution.human = Some(human);
        }
    }
    let is_weak = |how: &str| how == "sessionName" || how == "executionEnvironment";
    if attribution.workload.as_ref().is_none_or(|workload| is_weak(&workload.how)) {
        let told = callers.iter().enumerate().find_map(|(hop, caller)| Some((hop, caller.workload.as_ref()?)));
        if let Some((hop, workload)) = told {
            let mut workload = workload.clone();
            // The caller of the call that handed the credentials out is the workload itself.
            if hop > 0 {
                workload.how = format!("chain.{}", workload.how).into();
            }
            attribution.workload = Some(workload);
        }
    }
}

/// Whether nothing new is told of a session: its record comes twice where two accounts are concerned, and one of the
/// two hides the caller.
pub(super) fn tells_as_much(known: &Session, session: &Session) -> bool {
    let told = |session: &Session| {
        let principal = session.caller.principal.as_ref();
        (principal.is_some_and(|principal| principal.arn.is_some()), session.caller.access_key.is_some())
    };
    told(known) >= told(session)
}

/// Who handed out the credentials to whom, nearest first.
fn callers<'s>(sessions: &'s Memory<Session>, access_key: Option<&str>, time: Time) -> Vec<&'s Caller> {
    let mut found = Vec::new();
    let mut next = access_key.and_then(|key| sessions.get(key)).filter(|session| session.is_valid(time));
    while let Some(session) = next {
        found.push(&session.caller);
        if found.len() == LONGEST_CHAIN {
            break;
        }
        let access_key = session.caller.access_key.as_deref();
        next = access_key.and_then(|key| sessions.get(key)).filter(|before| before.is_valid(session.started));
    }
    found
}

impl Session {
    /// Whether the credentials could be used at a moment.
    fn is_valid(&self, time: Time) -> bool {
        let start = self.started.millis() - SLACK_MILLIS;
        let end = self.expires.map_or(self.started.millis() + LONGEST_SESSION_MILLIS, Time::millis) + SLACK_MILLIS;
        (start..=end).contains(&time.millis())
    }
}

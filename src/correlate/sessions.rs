//! Who is behind temporary credentials: follows the access key of a call to the call that issued it, and from there to
//! that call's own caller.

use super::memory::Memory;
use crate::model::{Assumed, Caller, RecordInfo, Session, Time};

/// Longest chain of roles that is followed; AWS documents no limit.
const LONGEST_CHAIN: usize = 10;
/// Assumed lifetime of a session without a known end: the longest possible (GetSessionToken, 36 hours).
const LONGEST_SESSION_MILLIS: i64 = 36 * 3_600_000;
/// Tolerance for times, which are whole seconds of different machines' clocks.
const SLACK_MILLIS: i64 = 300_000;

/// Adds the roles that were assumed before the one that made the call, and the person or program behind them.
///
/// A person known from the record itself is kept, unless guessed from a session's name.
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
        // The evidence nearest to the call is the strongest: it can't belong to anyone else.
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
            // The caller of the call that issued the credentials is the workload itself.
            if hop > 0 {
                workload.how = format!("chain.{}", workload.how).into();
            }
            attribution.workload = Some(workload);
        }
    }
}

/// Whether a session's second record adds nothing. There are two if two accounts are involved, one of which hides the
/// caller.
pub(super) fn tells_as_much(known: &Session, session: &Session) -> bool {
    let told = |session: &Session| {
        let principal = session.caller.principal.as_ref();
        (principal.is_some_and(|principal| principal.arn.is_some()), session.caller.access_key.is_some())
    };
    told(known) >= told(session)
}

/// The callers who obtained the credentials, nearest first.
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
    /// Whether the credentials were valid at a time.
    fn is_valid(&self, time: Time) -> bool {
        let start = self.started.millis() - SLACK_MILLIS;
        let end = self.expires.map_or(self.started.millis() + LONGEST_SESSION_MILLIS, Time::millis) + SLACK_MILLIS;
        (start..=end).contains(&time.millis())
    }
}

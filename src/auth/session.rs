//! What stands in for a credential for a while: a browser's session, and tickets that open one stream.
//!
//! In memory only: after a restart a browser logs in again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::grant::Grant;
use super::token::{TokenError, TokenHash, random};
use crate::model::Time;

/// Most passes kept; beyond it the one that expires first is dropped.
const MAX_KEPT: usize = 10_000;

/// Random strings that represent a grant until they expire: sessions and tickets.
#[derive(Debug)]
pub(super) struct Passes {
    prefix: &'static str,
    lifetime: Duration,
    once: bool,
    kept: Mutex<HashMap<TokenHash, Pass>>,
}

#[derive(Debug)]
struct Pass {
    grant: Arc<Grant>,
    expires: Time,
}

impl Passes {
    /// Passes valid for `lifetime`, and only for one use if `once`.
    pub(super) fn new(prefix: &'static str, lifetime: Duration, once: bool) -> Self {
        Self { prefix, lifetime, once, kept: Mutex::default() }
    }

    /// Issues a pass, with its expiry, which is never later than the grant's.
    pub(super) fn issue(&self, grant: &Arc<Grant>, now: Time) -> Result<(String, Time), TokenError> {
        let text = random(self.prefix)?;
        let lifetime = i64::try_from(self.lifetime.as_millis()).unwrap_or(i64::MAX);
        let end = Time::from_millis(now.millis().saturating_add(lifetime));
        let expires = grant.expires().map_or(end, |expires| expires.min(end));
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT
            && let Some(first) = kept.iter().min_by_key(|(_, pass)| pass.expires).map(|(hash, _)| *hash)
        {
            kept.remove(&first);
        }
        kept.insert(TokenHash::of(&text), Pass { grant: Arc::clone(grant), expires });
        Ok((text, expires))
    }

    /// The grant of a valid pass.
    pub(super) fn redeem(&self, text: &str, now: Time) -> Option<Arc<Grant>> {
        let hash = TokenHash::of(text);
        let mut kept = self.kept();
        let pass = kept.get(&hash)?;
        let grant = (pass.expires > now && !pass.grant.is_over(now)).then(|| Arc::clone(&pass.grant));
        if self.once || grant.is_none() {
            kept.remove(&hash);
        }
        grant
    }

    /// Revokes a pass.
    pub(super) fn withdraw(&self, text: &str) {
        self.kept().remove(&TokenHash::of(text));
    }

    pub(super) fn sweep(&self, now: Time) {
        self.kept().retain(|_, pass| pass.expires > now && !pass.grant.is_over(now));
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<TokenHash, Pass>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Time {
        Time::from_millis(1_700_000_000_000)
    }

    fn after(seconds: i64) -> Time {
        Time::from_millis(now().millis() + seconds * 1_000)
    }

    #[test]
    fn a_ticket_opens_once_and_not_late() {
        let tickets = Passes::new("ticket_", Duration::from_secs(60), true);
        let grant = Arc::new(Grant::anonymous());
        let (ticket, expires) = tickets.issue(&grant, now()).unwrap();
        assert_eq!(expires, after(60));
        assert!(tickets.redeem(&ticket, after(59)).is_some());
        assert!(tickets.redeem(&ticket, after(59)).is_none());
        let (late, _) = tickets.issue(&grant, now()).unwrap();
        assert!(tickets.redeem(&late, after(60)).is_none());
        assert!(tickets.redeem("ticket_guess", now()).is_none());
    }

    #[test]
    fn a_session_holds_until_it_is_withdrawn_or_its_grant_ends() {
        let sessions = Passes::new("session_", Duration::from_secs(60), false);
        let grant = Arc::new(Grant::anonymous());
        let (one, _) = sessions.issue(&grant, now()).unwrap();
        let (two, _) = sessions.issue(&grant, now()).unwrap();
        assert!(sessions.redeem(&one, now()).is_some() && sessions.redeem(&one, now()).is_some());
        sessions.withdraw(&one);
        assert!(sessions.redeem(&one, now()).is_none());
        grant.ended().cancel();
        assert!(sessions.redeem(&two, now()).is_none());
    }

    #[test]
    fn those_that_ended_are_not_kept() {
        let tickets = Passes::new("ticket_", Duration::from_secs(60), true);
        let grant = Arc::new(Grant::anonymous());
        for _ in 0..MAX_KEPT + 5 {
            tickets.issue(&grant, now()).unwrap();
        }
        assert_eq!(tickets.kept().len(), MAX_KEPT);
        tickets.sweep(after(61));
        assert!(tickets.kept().is_empty());
    }
}

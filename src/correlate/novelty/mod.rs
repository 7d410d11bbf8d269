//! What is new about a change: the first from an address, by a method, in a region, …, as far as remembered.
//!
//! The memory holds hashes of what was seen (`facts`) and the hours at which each principal makes changes (`habits`):
//! bounded, in log order, by event times, and durable with the records that caused it.
//!
//! Nothing counts as new before it could have been seen: the memory must cover the learning period, and so must the
//! time since which the principal or account of a facet is known.

mod facts;
mod habits;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::facts::{Facts, Minute, Page};
use self::habits::Habits;
use super::memory::Memory;
use crate::model::{Attribution, Draft, Novelty, NoveltyLimits, RecordInfo, Time};

/// The key prefix of this state.
pub(super) const KEY_PREFIX: &str = "novelty/";
const FACTS_PREFIX: &str = "novelty/facts/";
const HABITS_PREFIX: &str = "novelty/habits/";
/// The first byte of a stored value: its kind.
const PAGE: u8 = 1;
const HABITS: u8 = 2;

const MINUTE_MILLIS: i64 = 60_000;
const DAY_MINUTES: Minute = 24 * 60;
/// Fewest facts per principal (its addresses, types, methods, accounts), by which the number of principals is limited.
const FACTS_OF_ONE: usize = 16;

/// Kinds of hashes besides the facets: the subjects of facts.
const WHO: u64 = 1 << 8;
const ACCOUNT: u64 = 1 << 9;
const ADDRESS: u64 = 1 << 10;

/// Detects what is new about changes. Takes them in log order.
#[derive(Debug)]
pub struct Novelties {
    limits: NoveltyLimits,
    facts: Facts,
    habits: Memory<Habits, u64>,
    /// Changed habits to be made durable; `None` if changes are not collected.
    changes: Option<Vec<(String, Option<Bytes>)>>,
}

/// A fact that a change contributes, and the facet that is new if the fact was unknown.
struct Claim {
    facet: Novelty,
    /// Whether its subject has been known for long enough.
    is_learned: bool,
    fact: u64,
}

/// The part that all changes of a record share.
struct Call<'a> {
    time: Time,
    minute: Minute,
    who: Option<u64>,
    address: Option<u64>,
    method: Option<&'a str>,
}

impl Default for Novelties {
    fn default() -> Self {
        Self::new(NoveltyLimits::default())
    }
}

impl Novelties {
    /// Creates an empty memory.
    #[must_use]
    pub fn new(limits: NoveltyLimits) -> Self {
        let habits = Memory::new(HABITS_PREFIX, (limits.facts / FACTS_OF_ONE).max(1));
        Self { limits, facts: Facts::new(limits.facts), habits, changes: None }
    }

    /// Determines what is new about each of a record's changes, and remembers them. Empty while still learning.
    pub fn take(&mut self, record: &RecordInfo, drafts: &[Draft]) -> Vec<Novelty> {
        if self.limits.facts == 0 {
            return Vec::new();
        }
        let call = Call::new(record);
        let told = if self.is_learned(self.facts.complete_from(), call.minute) {
            drafts.iter().map(|draft| self.new_in(&call, draft)).collect()
        } else {
            Vec::new()
        };
        for draft in drafts {
            let facts = self.claims(&call, draft).into_iter().flatten().map(|claim| claim.fact);
            facts.chain(call.who).chain([account(draft)]).for_each(|fact| self.facts.note(fact, call.minute));
        }
        if let Some(who) = call.who {
            self.note_hours(who, call.time);
        }
        told
    }

    fn new_in(&self, call: &Call<'_>, draft: &Draft) -> Novelty {
        let mut novelty = Novelty::default();
        for claim in self.claims(call, draft).into_iter().flatten() {
            if claim.is_learned && self.facts.known_since(claim.fact).is_none() {
                novelty.insert(claim.facet);
            }
        }
        let known = call.who.filter(|who| self.is_known(*who, call.minute));
        if known.and_then(|who| self.habits.get(&who)).is_some_and(|habits| habits.is_unusual(call.time)) {
            novelty.insert(Novelty::HOURS);
        }
        novelty
    }

    /// The facts that a change contributes.
    fn claims(&self, call: &Call<'_>, draft: &Draft) -> [Option<Claim>; 6] {
        let account = account(draft);
        let account_is_known = self.is_known(account, call.minute);
        let who_is_known = call.who.is_some_and(|who| self.is_known(who, call.minute));
        let claim = |facet: Novelty, is_learned, of, text: &[u8]| {
            Some(Claim { facet, is_learned, fact: hash(u64::from(facet.bits()), of, text) })
        };
        let by = |facet, text: &[u8]| claim(facet, who_is_known, call.who?, text);
        let address = call.address.map(u64::to_be_bytes);
        let region = Some(draft.asset.region.as_str()).filter(|region| *region != "-");
        [
            call.who.and_then(|who| claim(Novelty::PRINCIPAL, account_is_known, who, draft.asset.account.as_bytes())),
            address.and_then(|address| by(Novelty::IP, &address)),
            address.and_then(|address| claim(Novelty::IP_ANYWHERE, true, 0, &address)),
            by(Novelty::ASSET_TYPE, draft.asset.kind.neutral_type.as_bytes()),
            call.method.and_then(|method| by(Novelty::METHOD, method.as_bytes())),
            region.and_then(|region| claim(Novelty::REGION, account_is_known, account, region.as_bytes())),
        ]
    }

    /// Whether a principal or an account has been known for long enough.
    fn is_known(&self, whole: u64, now: Minute) -> bool {
        self.facts.known_since(whole).is_some_and(|since| self.is_learned(since, now))
    }

    fn is_learned(&self, since: Minute, now: Minute) -> bool {
        since.min(now).saturating_add(self.limits.learning_days.saturating_mul(DAY_MINUTES)) <= now
    }

    fn note_hours(&mut self, who: u64, time: Time) {
        let mut habits = self.habits.get(&who).cloned().unwrap_or_default();
        if habits.note(time) {
            self.keep(who, habits);
        }
    }

    fn keep(&mut self, who: u64, habits: Habits) {
        let value = self.changes.is_some().then(|| {
            let mut value = vec![HABITS];
            value.extend_from_slice(&who.to_be_bytes());
            habits.encode(&mut value);
            value
        });
        let (key, forgotten) = self.habits.insert(who, habits);
        if let (Some(changes), Some(value)) = (&mut self.changes, value) {
            changes.push((key, Some(value.into())));
            changes.extend(forgotten.map(|key| (key, None)));
        }
    }

    /// The number of facts remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.facts.len()
    }

    /// Restores the state of before a restart from its values, in any order, and collects changes from now on. Returns
    /// how many of the values are invalid.
    pub fn restore(&mut self, values: impl IntoIterator<Item = Bytes>) -> usize {
        let (mut pages, mut habits, mut strange) = (Vec::new(), Vec::new(), 0);
        for value in values {
            match value.split_first() {
                Some((&PAGE, rest)) => pages.extend(Page::decode(rest).or_else(|| none(&mut strange))),
                Some((&HABITS, rest)) => habits.extend(decode_habits(rest).or_else(|| none(&mut strange))),
                _ => strange += 1,
            }
        }
        self.facts.restore(pages);
        // The first to be forgotten are those seen longest ago.
        habits.sort_by_key(|(_, habits)| habits.today());
        for (who, habits) in habits {
            let (_, forgotten) = self.habits.insert(who, habits);
            // The limit is lower than before the restart.
            self.changes.get_or_insert_default().extend(forgotten.map(|key| (key, None)));
        }
        self.changes.get_or_insert_default();
        strange
    }

    /// Takes the changes that must be committed together with the events that depend on them.
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<(String, Option<Bytes>)> {
        let mut changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        changes.extend(self.facts.take_changes());
        changes
    }
}

impl<'a> Call<'a> {
    fn new(record: &'a RecordInfo) -> Self {
        let attribution = &record.attribution;
        Self {
            time: record.time,
            minute: minute(record.time),
            who: who(attribution).map(|who| hash(WHO, 0, who.as_bytes())),
            address: attribution.ip.as_deref().map(address),
            method: Some(&*attribution.method).filter(|method| !method.is_empty() && *method != "unknown"),
        }
    }
}

fn none<T>(strange: &mut usize) -> Option<T> {
    *strange += 1;
    None
}

fn decode_habits(mut bytes: &[u8]) -> Option<(u64, Habits)> {
    let who = u64::from_be_bytes(facts::take(&mut bytes)?);
    Some((who, Habits::decode(&mut bytes)?))
}

/// The actor, independent of sessions: behind a role the person, if known and not guessed, or else the role; otherwise
/// the principal.
fn who(attribution: &Attribution) -> Option<&str> {
    let role = attribution.assumed.as_ref().and_then(|assumed| assumed.role_arn.as_deref());
    if role.is_some() {
        let told = attribution.human.as_ref().filter(|human| human.how != "sessionName");
        return told.map(|human| human.id.as_str()).or(role);
    }
    let principal = attribution.principal.as_ref()?;
    principal.arn.as_deref().or(principal.id.as_deref()).or(principal.name.as_deref())
}

fn account(draft: &Draft) -> u64 {
    hash(ACCOUNT, 0, draft.asset.account.as_bytes())
}

/// An address as remembered: for IPv6 the /64 network, since hosts vary the rest (RFC 8981).
fn address(text: &str) -> u64 {
    match text.parse() {
        Ok(IpAddr::V4(address)) => u64::from(address.to_bits()),
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(address) => u64::from(address.to_bits()),
            None => hash(ADDRESS, 0, &(address.to_bits() >> 64).to_be_bytes()),
        },
        Err(_) => hash(ADDRESS, 0, text.as_bytes()),
    }
}

/// The hash of a fact: its kind, its subject and a text.
fn hash(kind: u64, of: u64, text: &[u8]) -> u64 {
    xxh3_64_with_seed(text, of.rotate_left(17) ^ kind)
}

fn minute(time: Time) -> Minute {
    Minute::try_from(time.millis().max(0) / MINUTE_MILLIS).unwrap_or(Minute::MAX)
}

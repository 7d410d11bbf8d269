//! What was seen before: facts, as hashes, within a bound.
//!
//! Facts are kept in two generations. A seen fact goes into the young one, even if the old one has it; when the young
//! one is full, it replaces the old one, which is dropped. So a fact is forgotten only if it was not seen while a whole
//! generation filled, and the memory is complete since the time at which the old one began.
//!
//! In the log, a generation is a sequence of pages of [`PAGE`] facts. Only the last page is rewritten.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// Facts per page: 1.5 KiB.
pub(super) const PAGE: usize = 128;
/// Bytes of a page's header: kind of value, generation, page, began, newest.
const HEADER: usize = 17;
const FACT: usize = 12;

/// Minutes since 1970, precise enough for periods of days.
pub(super) type Minute = u32;

/// The known facts, as hashes, in two generations.
#[derive(Debug)]
pub(super) struct Facts {
    /// Most facts of one generation.
    limit: usize,
    young: Generation,
    old: Option<Generation>,
    /// Changes to be made durable; `None` if changes are not collected.
    changes: Option<Vec<(String, Option<Bytes>)>>,
}

#[derive(Debug)]
struct Generation {
    number: u32,
    /// Every fact seen since then is in this generation or a later one.
    began: Minute,
    newest: Minute,
    /// The facts, with the time since when each is known.
    known: HashMap<u64, Minute>,
    /// Number of full pages.
    full_pages: u32,
    /// The last page, which is not full.
    page: Vec<(u64, Minute)>,
    page_changed: bool,
}

/// A page read back from the log.
pub(super) struct Page {
    generation: u32,
    number: u32,
    began: Minute,
    newest: Minute,
    facts: Vec<(u64, Minute)>,
}

impl Facts {
    /// `limit` applies to both generations together.
    pub(super) fn new(limit: usize) -> Self {
        let young = Generation::new(0, Minute::MAX);
        Self { limit: (limit / 2).max(1), young, old: None, changes: None }
    }

    pub(super) fn len(&self) -> usize {
        self.young.known.len() + self.old.as_ref().map_or(0, |old| old.known.len())
    }

    /// Since when the memory is complete; the maximum while it is empty.
    pub(super) fn complete_from(&self) -> Minute {
        self.old.as_ref().unwrap_or(&self.young).began
    }

    /// Since when a fact is known.
    pub(super) fn known_since(&self, fact: u64) -> Option<Minute> {
        let old = || self.old.as_ref()?.known.get(&fact).copied();
        self.young.known.get(&fact).copied().or_else(old)
    }

    /// Records a fact at a time, which may be earlier than that of previous ones.
    pub(super) fn note(&mut self, fact: u64, at: Minute) {
        self.young.newest = self.young.newest.max(at);
        if self.young.known.get(&fact).is_some_and(|since| *since <= at) {
            return;
        }
        if self.young.number == 0 {
            // Nothing was dropped yet, so the memory is complete for earlier times too.
            self.young.began = self.young.began.min(at);
        }
        let since = self.known_since(fact).map_or(at, |since| since.min(at));
        self.young.known.insert(fact, since);
        self.young.page.push((fact, since));
        self.young.page_changed = true;
        if self.young.page.len() == PAGE {
            self.write_page();
            self.young.page.clear();
            self.young.full_pages += 1;
        }
        self.turn_if_full();
    }

    /// Starts a new generation and drops the old one, if the young one is full.
    fn turn_if_full(&mut self) {
        if self.young.known.len() < self.limit {
            return;
        }
        self.write_page();
        let next = Generation::new(self.young.number + 1, self.young.newest);
        let full = std::mem::replace(&mut self.young, next);
        if let (Some(dropped), Some(changes)) = (self.old.replace(full), &mut self.changes) {
            changes.extend((0..=dropped.full_pages).map(|page| (key(dropped.number, page), None)));
        }
    }

    fn write_page(&mut self) {
        let young = &mut self.young;
        if std::mem::take(&mut young.page_changed)
            && let Some(changes) = &mut self.changes
        {
            changes.push((key(young.number, young.full_pages), Some(young.encode_page())));
        }
    }

    /// Takes the changes to be made durable.
    pub(super) fn take_changes(&mut self) -> Vec<(String, Option<Bytes>)> {
        self.write_page();
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Restores the pages of before a restart, in any order, and collects changes from now on.
    pub(super) fn restore(&mut self, pages: Vec<Page>) {
        let mut generations: BTreeMap<u32, Generation> = BTreeMap::new();
        for page in pages {
            let restored = generations.entry(page.generation);
            restored.or_insert_with(|| Generation::new(page.generation, page.began)).take(page);
        }
        if let Some((_, young)) = generations.pop_last() {
            let before = young.number.checked_sub(1);
            self.old = before.and_then(|before| generations.remove(&before));
            self.young = young;
        }
        // Others exist only if another version wrote the log.
        let stray = generations.into_values().flat_map(|one| (0..=one.full_pages).map(move |page| (one.number, page)));
        self.changes = Some(stray.map(|(generation, page)| (key(generation, page), None)).collect());
        // A generation that has only begun has no page yet.
        self.turn_if_full();
    }
}

impl Generation {
    fn new(number: u32, began: Minute) -> Self {
        let (known, page) = (HashMap::new(), Vec::new());
        Self { number, began, newest: 0, known, full_pages: 0, page, page_changed: false }
    }

    /// Restores a page.
    fn take(&mut self, page: Page) {
        self.began = self.began.min(page.began);
        self.newest = self.newest.max(page.newest);
        for (fact, since) in &page.facts {
            let known = self.known.entry(*fact).or_insert(*since);
            *known = (*known).min(*since);
        }
        if page.facts.len() >= PAGE {
            self.full_pages = self.full_pages.max(page.number + 1);
        } else {
            self.full_pages = self.full_pages.max(page.number);
            self.page = page.facts;
        }
    }

    fn encode_page(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEADER + self.page.len() * FACT);
        bytes.push(super::PAGE);
        for number in [self.number, self.full_pages, self.began, self.newest] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for (fact, since) in &self.page {
            bytes.extend_from_slice(&fact.to_be_bytes());
            bytes.extend_from_slice(&since.to_be_bytes());
        }
        bytes.into()
    }
}

impl Page {
    /// Decodes a page, after the byte for the kind of value; `None` if it is invalid.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut number = || Some(u32::from_be_bytes(take(&mut rest)?));
        let (generation, page, began, newest) = (number()?, number()?, number()?, number()?);
        let mut facts = Vec::with_capacity(rest.len() / FACT);
        while !rest.is_empty() {
            facts.push((u64::from_be_bytes(take(&mut rest)?), u32::from_be_bytes(take(&mut rest)?)));
        }
        Some(Self { generation, number: page, began, newest, facts })
    }
}

pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*front)
}

fn key(generation: u32, page: u32) -> String {
    format!("{}{generation:08x}/{page:08x}", super::FACTS_PREFIX)
}

//! What an inventory of the provider tells, put in its place by its time.
//!
//! A seed is a change like any other, told for the moment that it is of: changes that came before it are in it already,
//! those that came after it are applied over it. What it adds nothing to is not written again.

use std::sync::{Arc, PoisonError};

use super::advance::{Told, advance, run_steps};
use super::journal::is_before;
use super::{Applied, Held, Inventory, Past};
use crate::json::{Arena, Json};
use crate::model::{Draft, DraftAction, Seed, Step};

/// What became of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedOutcome {
    /// The asset was not held, or held as deleted.
    Imported,
    /// It was held otherwise.
    Updated,
    /// It was held just so.
    Unchanged,
    /// It is from before what is held, and has no effect on it.
    Older,
}

impl Inventory {
    /// Takes what a seed tells, whose steps are used up. `Applied` is there where what is held changed by it.
    ///
    /// A partial seed tells the members of the configuration that it has; those that it does not have stay.
    pub fn seed<'a>(
        &self,
        event_id: &str,
        seed: &mut Seed,
        past: Past<'_>,
        arena: &'a Arena,
    ) -> (SeedOutcome, Option<Applied<'a>>) {
        let name = self.canonical(&seed.draft.asset.name);
        let told = told(event_id, seed, arena);
        let held = self.first_named(&name);
        match &held {
            None if told.action != DraftAction::Upsert => return (SeedOutcome::Unchanged, None),
            Some(held) if !is_before(&told, held) && is_same(held, &advance(&name, Some(held), &told, arena).1) => {
                return (SeedOutcome::Unchanged, None);
            }
            _ => {}
        }
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, left) = journal.apply(&name, held.as_ref(), told, past, arena);
        drop(journal);
        let next = applied.held.as_ref().filter(|next| held.as_ref().is_none_or(|held| !is_same(held, next)));
        if let Some(next) = next {
            self.insert(Arc::clone(next));
        }
        let is_older = next.is_none();
        left.iter().for_each(|name| self.pack(name));
        if is_older {
            return (SeedOutcome::Older, None);
        }
        let was_alive = held.is_some_and(|held| held.is_alive());
        (if was_alive { SeedOutcome::Updated } else { SeedOutcome::Imported }, Some(applied))
    }
}

/// The seed as a change: of all that it tells, and of nothing else.
fn told(event_id: &str, seed: &mut Seed, arena: &Arena) -> Told {
    let Draft { action, asset, steps, partial, .. } = &mut seed.draft;
    let mut steps = std::mem::take(steps);
    if *action == DraftAction::Upsert {
        let (document, complete) = run_steps(&asset.kind.sets, &steps, None, None, arena);
        let partial = *partial || complete == Some(false);
        steps.retain(|step| matches!(step, Step::Rename { .. }));
        match document {
            Json::Object(members) if partial => steps.extend(members.iter().map(|(key, value)| {
                let at = jsonptr::PointerBuf::from_tokens([key]);
                Step::Set { at, value: value.to_text() }
            })),
            document => steps.push(Step::Replace(document.to_text())),
        }
    }
    Told {
        time: seed.as_of,
        event_id: event_id.to_owned(),
        action: *action,
        asset: asset.clone(),
        steps,
        partial: false,
        is_seed: true,
    }
}

/// The same asset, whenever it was so.
fn is_same(held: &Held, next: &Held) -> bool {
    (&held.configuration, held.state, &held.arn, &held.aliases)
        == (&next.configuration, next.state, &next.arn, &next.aliases)
}

#[cfg(test)]
mod tests;

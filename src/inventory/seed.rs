//! Seeds: assets from a provider's inventory, placed among the changes by their time.
//!
//! A seed is applied like any other change, as of its own time: it includes all earlier changes, and later ones are
//! applied again on top. An asset to which it adds nothing is not stored again.

use std::sync::{Arc, PoisonError};

use super::advance::{Told, advance, run_steps};
use super::journal::is_before;
use super::{Applied, Held, Inventory, Past};
use crate::json::{Arena, Json};
use crate::model::{Draft, DraftAction, Seed, Step};

/// The result of applying a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedOutcome {
    /// The asset was not known, or known as deleted.
    Imported,
    /// The asset was known and differed.
    Updated,
    /// The asset was known and did not differ, or was not known and the seed says that it is gone.
    Unchanged,
    /// The seed is older than the asset's last change and has no effect.
    Older,
}

impl Inventory {
    /// Applies a seed, whose steps are taken out of it. Returns `Applied` if the asset changed.
    ///
    /// A partial seed sets the members of the configuration that it contains; the others stay.
    pub fn seed<'a>(
        &self,
        event_id: &str,
        seed: &mut Seed,
        past: Past<'_>,
        arena: &'a Arena,
    ) -> (SeedOutcome, Option<Applied<'a>>) {
        let name = self.canonical(&seed.draft.asset.name);
        let told = told(event_id, seed, arena);
        let (slot, held) = self.looked_up(&name).unzip();
        match &held {
            None if told.action != DraftAction::Upsert => return (SeedOutcome::Unchanged, None),
            Some(held)
                if !is_before(&told, held.changed(), held.is_alive())
                    && is_same(held, &advance(&name, Some(held), &told, arena).1) =>
            {
                return (SeedOutcome::Unchanged, None);
            }
            _ => {}
        }
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, left) = journal.apply(&name, (slot.as_ref(), held.as_ref()), told, past, arena);
        drop(journal);
        let next = applied.held.as_ref().filter(|next| held.as_ref().is_none_or(|held| !is_same(held, next)));
        if let Some(next) = next {
            self.replace(held.as_deref(), Arc::clone(next));
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

/// The seed as a change: a replacement of the configuration, or of the members that it contains if it is partial.
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

/// Whether the asset is the same, apart from times.
fn is_same(held: &Held, next: &Held) -> bool {
    (held.configuration(), held.state(), held.fields().arn, held.aliases())
        == (next.configuration(), next.state(), next.fields().arn, next.aliases())
}

#[cfg(test)]
mod tests;

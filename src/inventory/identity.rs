//! Which asset a record is about, and which of its successive lives.
//!
//! A record names an asset by the id that it has at that time. The provider may give an asset a new id and its old id
//! to another asset; an asset may be deleted and another one be created with the same id.

use super::{Fields, Held, Inventory, PreviousState};
use crate::json::Json;
use crate::model::{Action, AssetName, AssetRef, DraftAction, Time, UniqueId};

/// Separates an asset's name from a number, for an asset whose id belonged to another one before. Encoded ids never
/// contain it.
const SUCCESSOR: char = ';';

impl Inventory {
    /// The first name of an asset, given any of its names; the name itself if it is not known as a later one.
    #[must_use]
    pub fn canonical(&self, name: &AssetName) -> AssetName {
        if self.aliases.is_empty() {
            return name.clone();
        }
        match self.aliases.get(name).map(|first| first.clone()) {
            Some(first) => first,
            None => self.within_moved(name).unwrap_or_else(|| name.clone()),
        }
    }

    /// The first name of the asset that a record of the given time means.
    pub(super) fn named(&self, asset: &AssetRef, action: DraftAction, time: Time) -> AssetName {
        let (spoken, creates) = (&asset.name, action == DraftAction::Known(Action::Create));
        let first = self.canonical(spoken);
        if creates && self.is_taken(&first, asset, time) {
            return self.successor(spoken);
        }
        if first == *spoken {
            return first;
        }
        let Some(held) = self.first_named(&first) else { return first };
        let goes_by_it = if successor_number(&first, spoken) > 0 {
            held.first_seen() <= time
        } else {
            // A deleted asset no longer owns its later ids.
            held.is_alive() || held.changed() > time || !(creates || self.assets.contains_key(spoken))
        };
        if goes_by_it { first } else { spoken.clone() }
    }

    /// Whether the name belongs to another asset, which has a different id by now.
    fn is_taken(&self, name: &AssetName, created: &AssetRef, time: Time) -> bool {
        self.first_named(name).is_some_and(|held| {
            held.is_alive() && held.fields().id != created.id && !held.aliases().is_empty() && held.first_seen() < time
        })
    }

    fn successor(&self, name: &AssetName) -> AssetName {
        let numbered = |number: u32| AssetName::from_text(&format!("{name}{SUCCESSOR}{number}"));
        (2..).map(numbered).find(|name| !self.assets.contains_key(name)).unwrap_or_else(|| name.clone())
    }

    /// The former name of a part of an asset that was moved: its parts moved along with it.
    fn within_moved(&self, name: &AssetName) -> Option<AssetName> {
        if self.assets.contains_key(name) {
            return None;
        }
        let text = name.as_str();
        for (at, _) in text.rmatch_indices('/') {
            let (parent, rest) = text.split_at_checked(at)?;
            if let Some(first) = self.aliases.get(&AssetName::from_text(parent)).map(|first| first.clone()) {
                let before = AssetName::from_text(&format!("{first}{rest}"));
                return self.assets.contains_key(&before).then_some(before);
            }
        }
        None
    }

    /// Registers the later names of an asset. A name that another asset has is taken over, unless that one has a higher
    /// successor number, or this asset is deleted and the other one is known.
    pub(super) fn note_aliases(&self, held: &Held) {
        let name = held.name();
        for alias in held.aliases() {
            let other = self.aliases.get(alias).map(|first| first.clone()).filter(|first| first != name);
            let number = |of: &AssetName| successor_number(of, alias);
            if other.is_none_or(|other| {
                number(&other) <= number(name) && (held.is_alive() || !self.assets.contains_key(&other))
            }) {
                self.aliases.insert(alias.clone(), name.clone());
            }
        }
    }

    /// Drops the later names that an asset no longer has: its next life begins without those of the previous one.
    pub(super) fn drop_aliases(&self, before: &Held, kept: &[AssetName]) {
        for alias in before.aliases().iter().filter(|alias| !kept.contains(alias)) {
            self.aliases.remove_if(alias, |_, first| first == before.name());
        }
    }
}

/// The number in the name of a successor: 2 for the second asset that had the id `of`; 0 if `name` is no successor's
/// name of that id.
fn successor_number(name: &AssetName, of: &AssetName) -> u32 {
    let number = name.as_str().strip_prefix(of.as_str()).and_then(|rest| rest.strip_prefix(SUCCESSOR));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The unique id of one life of an asset: the provider's, else the id of the event that created it. `None` if neither
/// is known, as for an asset that existed before it was first seen.
pub(super) fn uid(
    told: (&AssetRef, &str),
    held: Option<&Fields<'_>>,
    (action, previous): (Action, PreviousState),
    (before, after): (Option<Json<'_>>, Option<Json<'_>>),
) -> Option<String> {
    let (asset, event_id) = told;
    let by_provider = |document: Option<Json<'_>>| {
        asset.kind.uid.iter().find_map(|unique| match unique {
            UniqueId::Id => Some(asset.id.clone()),
            UniqueId::At(pointer) => document?.at(pointer)?.as_str().map(str::to_owned),
        })
    };
    let is_new = action == Action::Create && matches!(previous, PreviousState::Absent | PreviousState::Deleted);
    let (was, is) = (by_provider(before), by_provider(after));
    // By the provider's unique id it is another asset: the deletion in between was not recorded.
    let is_another = was.is_some() && is.is_some() && was != is;
    let kept = held.filter(|_| !is_new && !is_another).and_then(|held| held.uid).map(str::to_owned);
    kept.or(is).or_else(|| is_new.then(|| event_id.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jsonptr::PointerBuf;
    use serde_json::json;

    use super::*;
    use crate::inventory::Applied;
    use crate::json::testing::arena;
    use crate::model::{AssetKind, Confidence, Draft, Seed, Step};

    const CREATE: DraftAction = DraftAction::Known(Action::Create);
    const UPDATE: DraftAction = DraftAction::Known(Action::Update);
    const DELETE: DraftAction = DraftAction::Known(Action::Delete);

    fn name(id: &str) -> AssetName {
        AssetName::new("aws", "111122223333", "", &format!("iam/user/{id}"))
    }

    fn draft(id: &str, action: DraftAction, steps: Vec<Step>) -> Draft {
        let kind = AssetKind {
            provider: "aws",
            provider_type: "AWS::IAM::User".to_owned(),
            neutral_type: "identity.user".to_owned(),
            tags: PointerBuf::from_tokens(["tags"]),
            uid: vec![UniqueId::At(PointerBuf::from_tokens(["userId"]))],
            ..AssetKind::default()
        };
        let asset = AssetRef {
            kind: Arc::new(kind),
            name: name(id),
            id: id.to_owned(),
            arn: None,
            arn_is_told: false,
            account: "111122223333".to_owned(),
            region: "-".to_owned(),
        };
        let (rule, confidence) = ("aws/iam/Test".into(), Confidence::High);
        Draft { action, asset, steps, partial: false, associations: Vec::new(), rule, confidence }
    }

    fn apply(inventory: &Inventory, seconds: i64, id: &str, action: DraftAction, steps: Vec<Step>) -> Applied<'static> {
        let (time, event) = (Time::from_millis(seconds * 1_000), format!("e{seconds}:0"));
        inventory.apply(time, &event, &mut draft(id, action, steps), &|_, _| Vec::new(), arena())
    }

    fn rename(id: &str) -> Vec<Step> {
        vec![Step::Rename { id: id.to_owned(), alias: name(id), arn: None }]
    }

    fn note(text: &str) -> Vec<Step> {
        vec![Step::Set { at: PointerBuf::from_tokens(["note"]), value: json!(text).into() }]
    }

    fn user_id(text: &str) -> Vec<Step> {
        vec![Step::Replace(json!({ "userId": text }).into())]
    }

    /// The same after a restart.
    fn restarted(inventory: &Inventory) -> Inventory {
        let again = Inventory::new();
        inventory.walk(None, &|_| true, &mut |held| {
            again.restore(held.stored().clone()).unwrap();
            true
        });
        again
    }

    #[test]
    fn an_id_that_is_used_again_is_another_asset_also_after_a_restart() {
        let inventory = Inventory::new();
        apply(&inventory, 1, "old", CREATE, note("first"));
        apply(&inventory, 2, "old", UPDATE, rename("new"));
        let second = apply(&inventory, 3, "old", CREATE, note("second"));
        let successor = AssetName::from_text(&format!("{};2", name("old")));
        assert_eq!((&second.name, second.previous_state), (&successor, PreviousState::Absent));
        for inventory in [restarted(&inventory), inventory] {
            assert_eq!(apply(&inventory, 4, "old", UPDATE, note("of the second")).name, successor);
            assert_eq!(apply(&inventory, 5, "new", UPDATE, note("of the first")).name, name("old"));
            let held = |name: &AssetName| inventory.get(name).unwrap().configuration().cloned().unwrap();
            assert_eq!(
                (&held(&successor)[..], &held(&name("old"))[..]),
                (&br#"{"note":"of the second"}"#[..], &br#"{"note":"of the first"}"#[..])
            );
            // By its later name too; the earlier name is the first asset's.
            assert_eq!(inventory.get(&name("new")).unwrap().name(), &name("old"));
            // A record from before the second's creation is about the first.
            let late = apply(&inventory, 2, "old", UPDATE, note("late"));
            assert_eq!((late.name, late.late), (name("old"), true));
            // Deleted and created again: the same name, another life.
            assert_eq!(apply(&inventory, 6, "old", DELETE, Vec::new()).uid.as_deref(), Some("e3:0"));
            let again = apply(&inventory, 7, "old", CREATE, Vec::new());
            assert_eq!((again.name, again.uid.as_deref()), (successor.clone(), Some("e7:0")));
            // After a rename the id is free for a third.
            apply(&inventory, 8, "old", UPDATE, rename("elsewhere"));
            let third = apply(&inventory, 9, "old", CREATE, Vec::new());
            assert_eq!(third.name.as_str(), format!("{};3", name("old")));
            let inventory = restarted(&inventory);
            assert_eq!(apply(&inventory, 10, "old", UPDATE, note("x")).name, third.name);
            assert_eq!(apply(&inventory, 11, "elsewhere", UPDATE, note("x")).name, successor);
        }
    }

    #[test]
    fn a_creation_that_comes_after_the_rename_is_the_first_ones() {
        let inventory = Inventory::new();
        apply(&inventory, 2, "old", UPDATE, rename("new"));
        let created = apply(&inventory, 1, "old", CREATE, note("first"));
        assert_eq!((created.name, created.late), (name("old"), true));
        assert_eq!(inventory.get(&name("new")).unwrap().fields().uid, Some("e1:0"));
    }

    #[test]
    fn what_is_deleted_leaves_its_later_ids() {
        let inventory = Inventory::new();
        apply(&inventory, 1, "old", CREATE, Vec::new());
        apply(&inventory, 2, "old", UPDATE, rename("new"));
        assert_eq!(apply(&inventory, 3, "new", DELETE, Vec::new()).name, name("old"));
        let other = apply(&inventory, 4, "new", CREATE, Vec::new());
        assert_eq!((&other.name, other.previous_state), (&name("new"), PreviousState::Absent));
        for inventory in [restarted(&inventory), inventory] {
            assert_eq!(apply(&inventory, 5, "new", UPDATE, note("x")).name, name("new"));
            // The first one's id is used again: the same name, without the later names.
            let again = apply(&inventory, 6, "old", CREATE, Vec::new());
            assert_eq!((&again.name, again.previous_state), (&name("old"), PreviousState::Deleted));
            assert!(inventory.get(&name("old")).unwrap().aliases().is_empty());
            assert_eq!(apply(&inventory, 7, "new", UPDATE, note("y")).name, name("new"));
        }
    }

    #[test]
    fn what_a_seed_brings_back_has_no_later_ids_either() {
        let inventory = Inventory::new();
        apply(&inventory, 1, "old", CREATE, Vec::new());
        apply(&inventory, 2, "old", UPDATE, rename("new"));
        apply(&inventory, 3, "new", DELETE, Vec::new());
        let mut seed = Seed { as_of: Time::from_millis(4_000), draft: draft("old", DraftAction::Upsert, note("x")) };
        inventory.seed("s:0", &mut seed, &|_, _| Vec::new(), arena());
        for inventory in [restarted(&inventory), inventory] {
            assert!(inventory.get(&name("old")).unwrap().is_alive());
            assert_eq!(apply(&inventory, 5, "new", UPDATE, note("y")).name, name("new"));
        }
    }

    #[test]
    fn an_id_in_capitals_gives_way_to_another_spelling_of_it() {
        let inventory = Inventory::new();
        let spell = |seconds: i64, id: &str| {
            let mut draft = draft(id, UPDATE, note("x"));
            draft.asset.name = name("web");
            inventory.apply(Time::from_millis(seconds * 1_000), "e:0", &mut draft, &|_, _| Vec::new(), arena());
            inventory.get(&name("web")).unwrap().fields().id.to_owned()
        };
        assert_eq!(spell(1, "WEB"), "WEB");
        assert_eq!(spell(2, "Web"), "Web");
        assert_eq!(spell(3, "WEB"), "Web");
        assert_eq!(spell(4, "web"), "Web", "the first one that is good enough");
    }

    #[test]
    fn each_life_has_a_uid_of_its_own() {
        let inventory = Inventory::new();
        let uid = |applied: Applied| applied.uid;
        assert_eq!(uid(apply(&inventory, 1, "a", UPDATE, note("x"))), None, "it was there before");
        assert_eq!(uid(apply(&inventory, 2, "a", UPDATE, user_id("AIDA1"))).as_deref(), Some("AIDA1"));
        assert_eq!(uid(apply(&inventory, 3, "a", UPDATE, note("x"))).as_deref(), Some("AIDA1"));
        assert_eq!(
            uid(apply(&inventory, 4, "a", UPDATE, user_id("AIDA2"))).as_deref(),
            Some("AIDA2"),
            "by its provider"
        );
        assert_eq!(uid(apply(&inventory, 5, "a", DELETE, Vec::new())).as_deref(), Some("AIDA2"));
        assert_eq!(uid(apply(&inventory, 6, "a", CREATE, Vec::new())).as_deref(), Some("e6:0"));
        // The provider's id is recorded later: the asset is still the same.
        assert_eq!(uid(apply(&inventory, 7, "a", UPDATE, user_id("AIDA3"))).as_deref(), Some("e6:0"));
        assert_eq!(restarted(&inventory).get(&name("a")).unwrap().fields().uid, Some("e6:0"));
    }

    #[test]
    fn what_a_bounded_inventory_forgets_it_forgets_by_every_name() {
        const ASSETS: i64 = 1_000;
        // So small that most are forgotten packed, and so large that the journal keeps the last ones as they are.
        let inventory = Inventory::bounded(100_000);
        for n in 0..ASSETS {
            apply(&inventory, 2 * n, &format!("old-{n}"), CREATE, note("x"));
            apply(&inventory, 2 * n + 1, &format!("old-{n}"), UPDATE, rename(&format!("new-{n}")));
        }
        assert!(inventory.len() < 500, "{} are kept", inventory.len());
        assert_eq!(inventory.aliases.len(), inventory.len());
        assert_eq!(inventory.canonical(&name("new-0")), name("new-0"), "unknown again");
        let last = inventory.get(&name(&format!("new-{}", ASSETS - 1))).unwrap();
        assert_eq!(last.name(), &name(&format!("old-{}", ASSETS - 1)));
    }

    #[test]
    fn a_name_that_was_taken_over_stays_when_its_former_asset_is_forgotten() {
        let inventory = Inventory::bounded(2_000);
        apply(&inventory, 1, "a", CREATE, Vec::new());
        apply(&inventory, 2, "a", UPDATE, rename("shared"));
        apply(&inventory, 3, "b", CREATE, Vec::new());
        apply(&inventory, 4, "b", UPDATE, rename("shared"));
        apply(&inventory, 5, "c", CREATE, vec![Step::Replace(json!({ "note": "x".repeat(500) }).into())]);
        assert!(inventory.get(&name("a")).is_none() && inventory.get(&name("b")).is_some());
        assert_eq!(inventory.get(&name("shared")).unwrap().name(), &name("b"));
    }

    #[test]
    fn the_parts_of_what_was_moved_moved_with_it() {
        let inventory = Inventory::new();
        for id in ["group/net", "group/net/subnets/a"] {
            let mut draft = draft(id, CREATE, Vec::new());
            draft.asset.name = AssetName::from_text(&format!("asset://azure/s/-/{id}"));
            inventory.apply(Time::from_millis(1_000), "e:0", &mut draft, &|_, _| Vec::new(), arena());
        }
        let of = |id: &str| AssetName::from_text(&format!("asset://azure/s/-/{id}"));
        let mut moved = draft("group/net", UPDATE, Vec::new());
        moved.asset.name = of("group/net");
        moved.steps = vec![Step::Rename { id: "other/net".to_owned(), alias: of("other/net"), arn: None }];
        inventory.apply(Time::from_millis(2_000), "e2:0", &mut moved, &|_, _| Vec::new(), arena());
        for (id, first) in
            [("other/net/subnets/a", "group/net/subnets/a"), ("other/net/subnets/b", "other/net/subnets/b")]
        {
            let mut part = draft(id, UPDATE, note("x"));
            part.asset.name = of(id);
            let applied = inventory.apply(Time::from_millis(3_000), "e3:0", &mut part, &|_, _| Vec::new(), arena());
            assert_eq!(applied.name, of(first), "{id}");
            let held = inventory.get(&of(id)).unwrap();
            assert_eq!((held.name(), held.is_alive()), (&of(first), true));
        }
    }
}

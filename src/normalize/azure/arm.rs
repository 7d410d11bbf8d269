//! Resource ids of Azure Resource Manager: the place, type and name of a resource.
//!
//! <https://learn.microsoft.com/azure/azure-resource-manager/templates/template-functions-resource#resourceid>

use std::fmt::Write as _;

use crate::model::AssetName;

/// Types of resources whose ids contain no provider.
const GROUP: &str = "Microsoft.Resources/resourceGroups";
const SUBSCRIPTION: &str = "Microsoft.Resources/subscriptions";
const TENANT: &str = "Microsoft.Resources/tenants";

/// A parsed resource id: `/subscriptions/…/resourceGroups/…/providers/Microsoft.Sql/servers/a/databases/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::normalize) struct ArmId<'a> {
    /// The id as it was written, without a final slash.
    text: &'a str,
    segments: Vec<&'a str>,
    /// The index of the last `providers` in the segments.
    provider_at: Option<usize>,
}

impl<'a> ArmId<'a> {
    /// Parses an id; `None` if the text is no path.
    pub(in crate::normalize) fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let path = text.strip_prefix('/').unwrap_or(text);
        if !text.is_empty() && (!text.starts_with('/') || path.split('/').any(str::is_empty)) {
            return None;
        }
        let segments = segments(path);
        let provider_at = segments.iter().rposition(|segment| segment.eq_ignore_ascii_case("providers"));
        // A final `…/providers` names nothing.
        let provider_at = provider_at.filter(|at| at + 1 < segments.len());
        Some(Self { text, segments, provider_at })
    }

    /// The id as it was written; `/` for the tenant itself.
    pub(in crate::normalize) fn text(&self) -> &'a str {
        if self.text.is_empty() { "/" } else { self.text }
    }

    fn segment(&self, at: usize) -> Option<&'a str> {
        self.segments.get(at).copied()
    }

    /// The segment after index `at`, if the one at that index is `key`.
    fn after(&self, at: usize, key: &str) -> Option<&'a str> {
        self.segment(at).filter(|segment| segment.eq_ignore_ascii_case(key)).and_then(|_| self.segment(at + 1))
    }

    /// The subscription's id in lower case; `None` above subscriptions.
    pub(in crate::normalize) fn subscription(&self) -> Option<String> {
        self.after(0, "subscriptions").map(str::to_ascii_lowercase)
    }

    /// The type, cased as in the id: `Microsoft.Sql/servers/databases`.
    pub(in crate::normalize) fn resource_type(&self) -> String {
        let Some(at) = self.provider_at else {
            return match (self.after(0, "subscriptions"), self.after(2, "resourceGroups")) {
                (Some(_), Some(_)) => GROUP,
                (Some(_), None) => SUBSCRIPTION,
                (None, _) => TENANT,
            }
            .to_owned();
        };
        let mut kind = self.segment(at + 1).unwrap_or_default().to_owned();
        for part in self.segments.iter().skip(at + 2).step_by(2) {
            let _ = write!(kind, "/{part}");
        }
        kind
    }

    /// The last word of the type: `databases` of `Microsoft.Sql/servers/databases`.
    pub(in crate::normalize) fn last_type(&self) -> &'a str {
        self.segments.len().checked_sub(2).and_then(|at| self.segment(at)).unwrap_or_default()
    }

    /// The display name: the last name in the id.
    pub(in crate::normalize) fn name(&self) -> &'a str {
        self.segments.last().copied().unwrap_or("/")
    }

    /// The id of the resource, group, subscription or tenant that this one is a part of or attached to.
    pub(in crate::normalize) fn parent(&self) -> Option<Self> {
        let keep = match self.provider_at {
            Some(at) if self.segments.len() > at + 4 => self.segments.len() - 2,
            Some(at) => at,
            None if self.segments.len() > 2 => self.segments.len() - 2,
            None if self.segments.is_empty() => return None,
            None => 0,
        };
        let end: usize = self.segments.iter().take(keep).map(|segment| segment.len() + 1).sum();
        Self::parse(self.text.get(..end)?)
    }

    /// The part after the resource group: `/providers/Microsoft.Web/sites/a`.
    pub(in crate::normalize) fn below_group(&self) -> Option<&'a str> {
        self.after(2, "resourceGroups").filter(|_| self.segments.len() > 4)?;
        let group: usize = self.segments.iter().take(4).map(|segment| segment.len() + 1).sum();
        self.text.get(group..)
    }

    /// Whether the id names a resource: then types and names come in pairs.
    pub(in crate::normalize) fn is_whole(&self) -> bool {
        match self.provider_at {
            Some(at) => self.segments.len() >= at + 4 && (self.segments.len() - at).is_multiple_of(2),
            None => self.segments.len().is_multiple_of(2),
        }
    }

    /// The nearest resource in the id: itself if it is whole, else the one that it is below.
    pub(in crate::normalize) fn whole(self) -> Option<Self> {
        let mut id = self;
        while !id.is_whole() {
            let end = id.text.rfind('/')?;
            let shorter = id.text.get(..end)?;
            id = Self::parse(shorter)?;
            if id.segments.last().is_some_and(|last| last.eq_ignore_ascii_case("providers")) {
                id = Self::parse(shorter.get(..shorter.rfind('/')?)?)?;
            }
        }
        Some(id)
    }

    /// Whether it is attached to another resource, not to a group or subscription:
    /// `…/vm1/providers/Microsoft.Insights/…`.
    pub(in crate::normalize) fn is_extension(&self) -> bool {
        let scope = self.provider_at.and_then(|at| self.segments.get(..at)).unwrap_or_default();
        scope.iter().any(|segment| segment.eq_ignore_ascii_case("providers"))
    }

    /// Whether it is a part of another resource: `…/virtualNetworks/a/subnets/b`.
    pub(in crate::normalize) fn is_part(&self) -> bool {
        self.provider_at.is_some_and(|at| self.segments.len() > at + 4)
    }

    /// `asset://azure/<subscription>/-/<the id after the subscription, in lower case>`. Above subscriptions, the
    /// account is the tenant.
    pub(in crate::normalize) fn asset_name(&self, tenant: &str) -> AssetName {
        let (account, path) = match self.subscription() {
            Some(subscription) => (subscription, self.segments.get(2..)),
            None => (tenant.to_owned(), self.segments.get(..)),
        };
        let path = path.unwrap_or_default();
        let mut tail = String::new();
        for segment in path.iter().flat_map(|segment| segment.split('/')) {
            let slash = if tail.is_empty() { "" } else { "/" };
            let _ = write!(tail, "{slash}{}", AssetName::encode(&segment.to_lowercase()));
        }
        if tail.is_empty() {
            tail.push_str(if self.segments.is_empty() { "tenant" } else { "subscription" });
        }
        AssetName::new("azure", &account, "-", &tail)
    }

    /// Among spellings of one id, the first in mixed case, else in lower case: Event Hubs delivers many ids in upper
    /// case only. Of those in mixed case, the one with the fewest names in upper case only: some services put names
    /// that they changed to upper case into an id that is otherwise as it was typed.
    pub(in crate::normalize) fn best_cased<'t>(texts: impl IntoIterator<Item = &'t str>) -> Option<&'t str> {
        let mut texts = texts.into_iter().map(|text| text.trim_end_matches('/'));
        let first = texts.next()?;
        // Mixed case is nearest to what people typed.
        let same = texts.filter(|text| text.eq_ignore_ascii_case(first));
        let shouted = |text: &str| text.split('/').filter(|segment| is_all_upper(segment)).count();
        std::iter::once(first).chain(same).min_by_key(|text| (shouting(text), shouted(text)))
    }
}

/// The segments of a path. The kind of a Kubernetes object includes its API group (`rbac.authorization.k8s.io/roles`).
fn segments(path: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let mut end = rest.find('/').unwrap_or(rest.len());
        if rest.get(..end).is_some_and(|group| group.to_ascii_lowercase().ends_with(".k8s.io")) {
            let after = rest.get(end + 1..).unwrap_or_default();
            end = (end + 1 + after.find('/').unwrap_or(after.len())).min(rest.len());
        }
        segments.extend(rest.get(..end));
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    segments
}

/// 0 for mixed case, 1 for lower case only, 2 otherwise.
fn shouting(text: &str) -> u8 {
    // The fixed words of an id count, too: an id in capitals except for `subscriptions` is in mixed case.
    let letters = || text.bytes().filter(u8::is_ascii_alphabetic);
    match (letters().any(|letter| letter.is_ascii_lowercase()), letters().any(|letter| letter.is_ascii_uppercase())) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// Whether a text begins with a prefix, ignoring ASCII case.
pub(super) fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether the text is not in mixed case.
pub(in crate::normalize) fn is_of_one_case(text: &str) -> bool {
    shouting(text) > 0
}

/// Whether the text has letters, all of them in upper case.
pub(in crate::normalize) fn is_all_upper(text: &str) -> bool {
    shouting(text) == 2 && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SUB: &str = "/subscriptions/0F1E2D3C-0000-4000-8000-000000000001";

    fn id(text: &str) -> ArmId<'_> {
        ArmId::parse(text).unwrap()
    }

    #[test]
    fn types_names_and_parents() {
        for (tail, kind, name, parent) in [
            ("", SUBSCRIPTION, "0F1E2D3C-0000-4000-8000-000000000001", "/"),
            ("/resourceGroups/Web", GROUP, "Web", SUB),
            (
                "/resourceGroups/Web/providers/Microsoft.Sql/servers/a/databases/b",
                "Microsoft.Sql/servers/databases",
                "b",
                "{}/resourceGroups/Web/providers/Microsoft.Sql/servers/a",
            ),
            (
                "/resourceGroups/web/providers/Microsoft.Sql/servers/a",
                "Microsoft.Sql/servers",
                "a",
                "{}/resourceGroups/web",
            ),
            (
                "/resourceGroups/w/providers/Microsoft.Sql/servers/a/providers/Microsoft.Authorization/locks/keep",
                "Microsoft.Authorization/locks",
                "keep",
                "{}/resourceGroups/w/providers/Microsoft.Sql/servers/a",
            ),
            (
                "/providers/Microsoft.Authorization/roleAssignments/x",
                "Microsoft.Authorization/roleAssignments",
                "x",
                SUB,
            ),
        ] {
            let text = format!("{SUB}{tail}");
            let parsed = id(&text);
            assert_eq!((parsed.resource_type().as_str(), parsed.name()), (kind, name), "{text}");
            assert_eq!(parsed.parent().unwrap().text(), parent.replace("{}", SUB), "{text}");
            assert!(parsed.is_whole());
        }
        let group = id("/providers/Microsoft.Management/managementGroups/Corp");
        assert_eq!(group.resource_type(), "Microsoft.Management/managementGroups");
        assert_eq!(
            group.asset_name("t").as_str(),
            "asset://azure/t/-/providers/microsoft.management/managementgroups/corp"
        );
        assert_eq!(id("/").resource_type(), TENANT);
        let role = id(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c/RBAC.authorization.k8s.io/roles/r",
        );
        assert_eq!(
            (role.resource_type().as_str(), role.name(), role.parent().unwrap().name()),
            ("Microsoft.Kubernetes/connectedClusters/RBAC.authorization.k8s.io/roles", "r", "c")
        );
        assert!(role.is_whole() && role.asset_name("t").as_str().ends_with("/c/rbac.authorization.k8s.io/roles/r"));
        assert_eq!(id("/subscriptions/s/resourceGroups/g/providers/A.B/c/d").below_group(), Some("/providers/A.B/c/d"));
        assert_eq!(id("/subscriptions/s/resourceGroups/g").below_group(), None);
        assert!(ArmId::parse("a/b").is_none() && ArmId::parse("/a//b").is_none());
    }

    #[test]
    fn what_names_no_resource_falls_back_to_what_it_stands_below() {
        for (tail, whole) in [
            ("/providers/Microsoft.Compute", ""),
            ("/resourceGroups/w/providers/Microsoft.Network/virtualNetworks", "/resourceGroups/w"),
            ("/resourceGroups", ""),
        ] {
            let text = format!("{SUB}{tail}");
            assert_eq!(id(&text).whole().unwrap().text(), format!("{SUB}{whole}"), "{text}");
        }
        assert_eq!(id("/providers/Microsoft.Authorization").whole().unwrap().resource_type(), TENANT);
    }

    #[test]
    fn one_resource_has_one_name_in_whatever_case() {
        let told = format!("{SUB}/resourceGroups/Web/providers/Microsoft.Web/sites/Shop é");
        let shouted = told.to_ascii_uppercase();
        assert_eq!(id(&told).asset_name("-"), id(&shouted).asset_name("-"));
        assert_eq!(
            id(&told).asset_name("-").as_str(),
            "asset://azure/0f1e2d3c-0000-4000-8000-000000000001/-/resourcegroups/web/providers/microsoft.web/sites/shop%20%C3%A9"
        );
        assert_eq!(
            id(SUB).asset_name("-").as_str(),
            "asset://azure/0f1e2d3c-0000-4000-8000-000000000001/-/subscription"
        );
        assert_eq!(ArmId::best_cased([shouted.as_str(), told.as_str()]), Some(told.as_str()));
        assert_eq!(ArmId::best_cased([shouted.as_str(), "/other"]), Some(shouted.as_str()));
    }

    #[test]
    fn names_in_capitals_only_give_way_to_others() {
        let told = format!("{SUB}/resourceGroups/Web/providers/Microsoft.Web/sites/shop");
        let group = told.replace("/Web/", "/WEB/");
        let names = group.replace("/shop", "/SHOP");
        let all_but_the_first = told.to_uppercase().replace("/SUBSCRIPTIONS/", "/subscriptions/");
        let (lower, upper) = (told.to_lowercase(), told.to_uppercase());
        // From the best to the worst.
        let spellings = [&told, &group, &names, &all_but_the_first, &lower, &upper].map(String::as_str);
        for (at, better) in spellings.iter().enumerate() {
            for worse in &spellings[at..] {
                assert_eq!(ArmId::best_cased([*worse, *better]), Some(*better), "{worse}");
            }
        }
        // Of equally good ones the first: nobody knows which was typed.
        let other = told.replace("/shop", "/Shop");
        assert_eq!(ArmId::best_cased([told.as_str(), other.as_str()]), Some(told.as_str()));
    }

    proptest! {
        #[test]
        fn never_panics_and_always_ends(text in "(/|[a-zA-Z.]{0,12}|/providers|/subscriptions|/a.k8s.io){0,9}") {
            if let Some(id) = ArmId::parse(&text) {
                let _ = (id.resource_type(), id.asset_name("t"), id.parent(), id.is_extension(), id.is_part());
                let _ = id.whole();
            }
        }
    }
}

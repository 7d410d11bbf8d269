//! Templates for the names and ARNs of assets in rules: rendered from values, and matched against texts.

use std::fmt;

use crate::model::AssetName;

/// A text with variable `{parts}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template(Box<[Part]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Partition,
    Region,
    Account,
    Id,
    /// An ARM id, which is a complete name by itself.
    ArmId,
    Var(Box<str>),
}

/// Variables of a name besides the id: name and value.
pub(super) type Vars<'a> = Vec<(&'a str, &'a str)>;

/// The values that a template is rendered with.
pub(super) struct Parts<'a> {
    pub(super) partition: &'a str,
    pub(super) region: &'a str,
    pub(super) account: &'a str,
    pub(super) id: &'a str,
    pub(super) vars: &'a [(&'a str, &'a str)],
}

impl Template {
    /// Parses a template; `None` if a brace is not closed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let (name, after) = after.split_once('}')?;
            parts.push(match name {
                "partition" => Part::Partition,
                "region" => Part::Region,
                "account" => Part::Account,
                "id" => Part::Id,
                "arm_id" => Part::ArmId,
                name => Part::Var(name.into()),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Some(Self(parts.into()))
    }

    /// The names of the variables that an event must provide under `vars`.
    pub(super) fn vars(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Var(name) => Some(name.as_ref()),
            _ => None,
        })
    }

    /// Matches a text and returns the values of the variable parts: `service/{cluster}/{id}` in `service/blue/web`.
    /// Each value ends where the next literal first occurs; the last one takes the rest.
    pub(super) fn capture<'t>(&'t self, text: &'t str) -> Option<Vars<'t>> {
        let mut captured = Vec::new();
        let mut rest = text;
        for (at, part) in self.0.iter().enumerate() {
            let name = match part {
                Part::Text(literal) => {
                    rest = rest.strip_prefix(&**literal)?;
                    continue;
                }
                Part::Var(name) => name,
                Part::Id => "id",
                Part::Partition | Part::Region | Part::Account | Part::ArmId => return None,
            };
            let end = match self.0.get(at + 1) {
                Some(Part::Text(literal)) => rest.find(&**literal)?,
                Some(_) => return None,
                None => rest.len(),
            };
            let (value, after) = rest.split_at_checked(end).filter(|(value, _)| !value.is_empty())?;
            captured.push((name, value));
            rest = after;
        }
        rest.is_empty().then_some(captured)
    }

    /// Length of the literal text in bytes.
    pub(super) fn literal_len(&self) -> usize {
        self.0.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum()
    }

    /// Whether the name is an Azure Resource Manager id.
    pub(super) fn is_arm_id(&self) -> bool {
        matches!(&*self.0, [Part::ArmId])
    }

    /// The text before `{id}` if that is the only variable, at the end: `ec2/security-group/`.
    pub(super) fn literal_prefix(&self) -> Option<&str> {
        match &*self.0 {
            [Part::Text(text), Part::Id] => Some(text),
            _ => None,
        }
    }

    /// The service in an ARN template: `ec2` in `arn:{partition}:ec2:…`.
    pub(super) fn arn_service(&self) -> Option<&str> {
        match &*self.0 {
            [Part::Text(arn), Part::Partition, Part::Text(service), ..] if **arn == *"arn:" => {
                service.split(':').nth(1)
            }
            _ => None,
        }
    }

    /// The id and the variables with which the template would render to this text. Values contain no `/` or `:`, except
    /// the last one if `loose`.
    pub(super) fn captures<'t>(&'t self, text: &'t str, loose: bool) -> Option<(&'t str, Vars<'t>)> {
        let mut found = Vec::new();
        if !captured(&self.0, text, loose, &mut found) {
            return None;
        }
        let mut id = None;
        let mut vars = Vec::new();
        for (part, value) in found {
            match part {
                Part::Id => id = Some(value),
                Part::Var(name) => vars.push((&**name, value)),
                _ => {}
            }
        }
        Some((id?, vars))
    }

    /// Renders the template, percent-encoding the values if `encode`; `None` if a variable is missing.
    pub(super) fn render(&self, parts: &Parts<'_>, encode: bool) -> Option<String> {
        let mut text = String::with_capacity(96);
        for part in &self.0 {
            let value = match part {
                Part::Text(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Part::Partition => parts.partition,
                Part::Region => parts.region,
                Part::Account => parts.account,
                Part::Id | Part::ArmId => parts.id,
                Part::Var(name) => parts.vars.iter().find(|(var, _)| **var == **name).map(|(_, value)| *value)?,
            };
            if encode {
                text.extend(AssetName::encode(value));
            } else {
                text.push_str(value);
            }
        }
        Some(text)
    }
}

/// Formats a template as written in a rule.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Partition => f.write_str("{partition}"),
            Part::Region => f.write_str("{region}"),
            Part::Account => f.write_str("{account}"),
            Part::Id => f.write_str("{id}"),
            Part::ArmId => f.write_str("{arm_id}"),
            Part::Var(name) => write!(f, "{{{name}}}"),
        })
    }
}

/// Matches parts against a whole text, with backtracking, and collects the values of the variable ones.
fn captured<'p, 't>(parts: &'p [Part], text: &'t str, loose: bool, found: &mut Vec<(&'p Part, &'t str)>) -> bool {
    match parts {
        [] => text.is_empty(),
        [Part::Text(literal), rest @ ..] => {
            text.strip_prefix(&**literal).is_some_and(|text| captured(rest, text, loose, found))
        }
        [part, rest @ ..] => {
            let takes_all = loose && !rest.iter().any(|part| !matches!(part, Part::Text(_)));
            let may_be_empty = matches!(part, Part::Region | Part::Account);
            let ends: Vec<usize> = match rest {
                [Part::Text(literal), ..] => text.match_indices(&**literal).map(|(at, _)| at).collect(),
                _ => vec![text.len()],
            };
            ends.into_iter().any(|end| {
                let (value, after) = text.split_at(end);
                let fits = (takes_all || !value.contains(['/', ':'])) && (may_be_empty || !value.is_empty());
                let kept = found.len();
                found.push((part, value));
                let matched = fits && captured(rest, after, loose, found);
                if !matched {
                    found.truncate(kept);
                }
                matched
            })
        }
    }
}

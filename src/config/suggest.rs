//! Suggestions for mistyped words.

/// ` (did you mean …?)` if the edit distance to a known word is at most two, and at most a third of the word's length.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let limit = (word.len() / 3).clamp(1, 2);
    known
        .iter()
        .map(|candidate| (slips(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| format!(" (did you mean {candidate}?)"))
        .unwrap_or_default()
}

/// The Levenshtein distance: insertions, deletions and substitutions of single letters.
fn slips(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (diagonal + usize::from(x != y)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (a, b, distance) in [("path", "path", 0), ("pathh", "path", 1), ("lsiten", "listen", 2), ("", "ab", 2)] {
            assert_eq!(slips(a, b), distance, "{a} {b}");
            assert_eq!(slips(b, a), distance, "{b} {a}");
        }
        assert_eq!(did_you_mean("lisen", &["listen", "cors_origins"]), " (did you mean listen?)");
        assert_eq!(did_you_mean("port", &["listen", "cors_origins"]), "");
    }
}

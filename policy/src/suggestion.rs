//! "Did you mean": the nearest of the names that are known.

/// The most names to compare with; more would cost time.
const MOST: usize = 1_000;

/// The known name that is nearest to what was written, if any is near.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // What is far longer than any name is no misspelling, and would cost time.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase();
    let length = written.chars().count();
    let limit = (length / 3).max(1);
    known
        .into_iter()
        .filter(|name| name.chars().count().abs_diff(length) <= limit)
        .take(MOST)
        .map(|name| (distance(&written, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// ``; did you mean `name`?``, or nothing.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Levenshtein's, with swapped neighbours as one step.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut previous = None;
    for (row, character) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
            let replaced = at(&last, column) + usize::from(character != *other);
            let mut best = replaced.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            if let Some(before) = column.checked_sub(1)
                && previous == Some(*other)
                && right.get(before) == Some(&character)
            {
                best = best.min(at(&before_last, before).saturating_add(1));
            }
            current.push(best);
        }
        before_last = last;
        last = current;
        previous = Some(character);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_are_near_and_other_words_are_not() {
        const KNOWN: [&str; 4] = ["host", "priority", "sessionMatcher", "source.ip"];
        for (written, expected) in [
            ("hots", Some("host")),
            ("hosts", Some("host")),
            ("Priority", Some("priority")),
            ("session_matcher", Some("sessionMatcher")),
            ("source.pi", Some("source.ip")),
            ("banana", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, KNOWN), expected, "{written}");
        }
    }
}

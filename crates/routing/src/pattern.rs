//! Patterns of routing keys.
//!
//! A key is a row of words with dots between them; the empty key has no words, and a dot at either end has an empty word beside it. In a
//! pattern the word `*` stands for exactly one word, and the word `#` for any number of words, none among them.

/// The word that stands for one word.
pub const ONE: &str = "*";

/// The word that stands for any number of words.
pub const ANY: &str = "#";

/// The words of a key, or of a pattern.
pub fn words(key: &str) -> impl Iterator<Item = &str> + Clone {
    // `split` has one empty word of an empty text.
    let most = if key.is_empty() { 0 } else { usize::MAX };
    key.split('.').take(most)
}

/// Judges a pattern, except for its length. The error says what is wrong.
///
/// # Errors
/// The first word in which `*` or `#` is beside something else: it would be compared as it stands, which hardly anybody wants.
pub fn judge_pattern(pattern: &str) -> Result<(), String> {
    let offends = |word: &&str| ![ONE, ANY].contains(word) && word.contains(['*', '#']);
    match words(pattern).find(offends) {
        None => Ok(()),
        Some(word) => Err(format!(
            "the word {word:?} has * or # beside other characters: * stands for one whole word between dots and # for any number of \
             words, as in orders.*.paid or orders.#"
        )),
    }
}

/// Whether the pattern matches the key. For one pattern; the tables are for many.
pub fn matches(pattern: &str, key: &str) -> bool {
    let (mut pattern, mut key) = (words(pattern), words(key));
    // Where to go on when a word does not fit: behind the last `#`, with one more word of the key for it.
    let mut resume = None;
    loop {
        let before = key.clone();
        match (pattern.next(), key.next()) {
            (None, None) => return true,
            (Some(ANY), _) => {
                key = before;
                resume = Some((pattern.clone(), key.clone()));
            }
            (Some(word), Some(other)) if word == ONE || word == other => {}
            _ => {
                let Some((behind, mut rest)) = resume else {
                    return false;
                };
                if rest.next().is_none() {
                    return false;
                }
                (pattern, key) = (behind.clone(), rest.clone());
                resume = Some((behind, rest));
            }
        }
    }
}

//! Which file of a crate imports which: a scan of tokens, which knows as much of the language as paths need.
//!
//! A path counts for the file that defines what it names: re-exports are followed. The declaration of a module is no import, nor is a
//! re-export whose name its file does not use itself. Code under `#[cfg(test)]` does not count.

use std::collections::BTreeMap;

use crate::tree::File;

/// An import of one file by another.
#[derive(Debug)]
pub struct Import {
    /// The file that imports, below `src/`.
    pub from: String,
    /// The file that defines what is imported.
    pub to: String,
    /// The number of its line, from 1 on.
    pub line: usize,
    /// The path as it is written there.
    pub path: String,
}

/// Path of a module below the crate's root.
type ModulePath = Vec<String>;

struct Token {
    text: String,
    line: usize,
}

/// A path that a file names.
struct Named {
    segments: Vec<String>,
    line: usize,
}

struct Module {
    file: String,
    /// The paths that `use` imports, by the name that they have in this module.
    uses: BTreeMap<String, Vec<String>>,
    /// Modules all of whose items are brought in.
    globs: Vec<Vec<String>>,
    named: Vec<Named>,
}

/// How often names are followed through re-exports.
const DEPTH_MAX: usize = 16;

/// The modules of one crate.
struct Crate(BTreeMap<ModulePath, Module>);

/// The imports of a crate between its own files.
pub fn of_crate(name: &str, files: &[File]) -> Vec<Import> {
    let folder = format!("crates/{name}/src/");
    let texts: BTreeMap<&str, &str> = files
        .iter()
        .filter_map(|file| Some((file.path.strip_prefix(&folder)?, &*file.text)))
        .collect();
    let mut modules = Crate(BTreeMap::new());
    for root in ["lib.rs", "main.rs"] {
        if texts.contains_key(root) {
            modules.load(Vec::new(), root, "", &texts);
            break;
        }
    }
    modules.imports()
}

impl Crate {
    fn load(&mut self, path: ModulePath, file: &str, folder: &str, texts: &BTreeMap<&str, &str>) {
        let tokens = without_tests(tokens(texts[file]));
        let children: Vec<String> = tokens
            .windows(3)
            .filter(|window| window[0].text == "mod" && window[2].text == ";")
            .map(|window| window[1].text.clone())
            .collect();
        self.0.insert(path.clone(), Module::read(file, &tokens, &children));
        for child in children {
            let places = [format!("{folder}{child}.rs"), format!("{folder}{child}/mod.rs")];
            if let Some(place) = places.iter().find(|place| texts.contains_key(place.as_str())) {
                let below = [&path[..], std::slice::from_ref(&child)].concat();
                self.load(below, place, &format!("{folder}{child}/"), texts);
            }
        }
    }

    fn imports(&self) -> Vec<Import> {
        let mut found = Vec::new();
        for (path, module) in &self.0 {
            for named in &module.named {
                let Some(target) = self.resolve(path, &named.segments, 0) else {
                    continue;
                };
                let to = &self.0[&target].file;
                if *to != module.file {
                    found.push(Import {
                        from: module.file.clone(),
                        to: to.clone(),
                        line: named.line,
                        path: named.segments.join("::"),
                    });
                }
            }
        }
        found
    }

    /// The module that defines what a path names; none: another crate.
    fn resolve(&self, from: &[String], segments: &[String], depth: usize) -> Option<ModulePath> {
        let (mut at, mut rest) = self.begin(from, segments)?;
        while let Some((first, behind)) = rest.split_first() {
            let below = [&at[..], std::slice::from_ref(first)].concat();
            if self.0.contains_key(&below) {
                (at, rest) = (below, behind);
                continue;
            }
            let module = &self.0[&at];
            if depth == DEPTH_MAX || first == "*" || first == "self" {
                break;
            }
            if let Some(target) = module.uses.get(first) {
                self.begin(&at, target)?;
                return self.resolve(&at, &[target, behind].concat(), depth + 1);
            }
            let through = module.globs.iter().find_map(|glob| {
                let (start, _) = self.begin(&at, glob)?;
                let found = self.resolve(&at, &[glob, rest].concat(), depth + 1)?;
                (found != at && found != start).then_some(found)
            });
            return Some(through.unwrap_or(at));
        }
        Some(at)
    }

    /// Where a path begins, and what is left of it.
    fn begin<'a>(&self, from: &[String], segments: &'a [String]) -> Option<(ModulePath, &'a [String])> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => Some((Vec::new(), rest)),
            "self" => Some((from.to_vec(), rest)),
            "super" => {
                let mut at = from.to_vec();
                let mut rest = segments;
                while let Some(("super", behind)) = rest.split_first().map(|(first, behind)| (&**first, behind)) {
                    at.pop();
                    rest = behind;
                }
                Some((at, rest))
            }
            _ => {
                let below = [from, std::slice::from_ref(first)].concat();
                self.0.contains_key(&below).then_some((below, rest))
            }
        }
    }
}

impl Module {
    fn read(file: &str, tokens: &[Token], children: &[String]) -> Self {
        let mut module = Self {
            file: file.to_owned(),
            uses: BTreeMap::new(),
            globs: Vec::new(),
            named: Vec::new(),
        };
        let mut reexports = Vec::new();
        let mut words = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let before = at.checked_sub(1).map_or("", |before| &*tokens[before].text);
            if tokens[at].text == "use" && before != "." {
                let line = tokens[at].line;
                let is_public = before == "pub" || before == ")";
                at += 1;
                let mut trees = Vec::new();
                use_tree(tokens, &mut at, &[], &mut trees);
                for (segments, name) in trees {
                    if name == "*" {
                        module.globs.push(segments[..segments.len() - 1].to_vec());
                    }
                    module.uses.insert(name.clone(), segments.clone());
                    match is_public {
                        true => reexports.push((name, Named { segments, line })),
                        false => module.named.push(Named { segments, line }),
                    }
                }
                continue;
            }
            let is_path = tokens.get(at + 1).is_some_and(|next| next.text == "::") && before != "::" && before != ".";
            let begins_here =
                ["crate", "self", "super"].contains(&&*tokens[at].text) || children.contains(&tokens[at].text);
            if is_path && begins_here {
                let line = tokens[at].line;
                let mut segments = vec![tokens[at].text.clone()];
                while let [separator, next] = &tokens[at + 1..(at + 3).min(tokens.len())]
                    && separator.text == "::"
                    && is_word(&next.text)
                {
                    segments.push(next.text.clone());
                    at += 2;
                }
                module.named.push(Named { segments, line });
            } else if is_word(&tokens[at].text) {
                words.push(&*tokens[at].text);
            }
            at += 1;
        }
        let is_used = |name: &String| words.contains(&&**name);
        let used = reexports.into_iter().filter(|(name, _)| is_used(name));
        module.named.extend(used.map(|(_, named)| named));
        module
    }
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Reads a tree of `use`: each path and the name that it gets. Ends behind its `;`, or before the `,` or `}` of the tree around it.
fn use_tree(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut segments = before.to_vec();
    let mut name = None;
    while let Some(token) = tokens.get(*at) {
        match token.text.as_str() {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token.text != "}") {
                    if tokens[*at].text == "," {
                        *at += 1;
                    } else {
                        use_tree(tokens, at, &segments, found);
                    }
                }
                *at += 1;
                segments.clear();
            }
            "as" => {
                name = tokens.get(*at + 1).map(|token| token.text.clone());
                *at += 2;
            }
            "," | "}" => break,
            ";" => {
                *at += 1;
                break;
            }
            word => {
                segments.push(word.to_owned());
                *at += 1;
            }
        }
    }
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    if let Some(last) = segments.last() {
        let name = name.unwrap_or_else(|| last.clone());
        found.push((segments, name));
    }
}

/// The tokens without items under `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = tokens.into_iter().peekable();
    let mut ahead: Vec<Token> = Vec::new();
    while let Some(token) = rest.next() {
        ahead.push(token);
        let is_begun = ahead
            .iter()
            .zip(CFG_TEST)
            .all(|(token, expected)| token.text == expected);
        if !is_begun {
            kept.append(&mut ahead);
        } else if ahead.len() == CFG_TEST.len() {
            ahead.clear();
            skip_item(&mut rest);
        }
    }
    kept.append(&mut ahead);
    kept
}

/// Skips an item, or a field: to its `;`, its `,` or the end of its braces.
fn skip_item(tokens: &mut std::iter::Peekable<impl Iterator<Item = Token>>) {
    let mut depth = 0_i32;
    while let Some(token) = tokens.peek() {
        let text = token.text.clone();
        if depth == 0 && text == "}" {
            return;
        }
        tokens.next();
        match text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
            ";" | "," if depth == 0 => return,
            _ => {}
        }
    }
}

/// Words and signs, without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    let begins = |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| chars.get(at + n) == Some(&c));
    while at < chars.len() {
        let start = at;
        if begins(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if begins(at, "/*") {
            while at < chars.len() && !begins(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if chars[at].is_alphanumeric() || chars[at] == '_' {
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            match end_of_raw_string(&chars, &word, at) {
                Some(end) => at = end,
                None if word == "r" && begins(at, "#") => at += 1,
                None => found.push(Token { text: word, line }),
            }
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if chars[at] == '\'' {
            at += 1;
            if chars.get(at) == Some(&'\\') {
                at += 2;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            } else if chars.get(at + 1) == Some(&'\'') {
                at += 2;
            } else {
                // A lifetime.
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
            }
        } else if begins(at, "::") {
            at += 2;
            let text = "::".to_owned();
            found.push(Token { text, line });
        } else {
            at += 1;
            if !chars[start].is_whitespace() {
                let text = chars[start].to_string();
                found.push(Token { text, line });
            }
        }
        let end = at.min(chars.len());
        line += chars[start..end].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// Where the raw string ends that begins with this prefix, if it is one.
fn end_of_raw_string(chars: &[char], prefix: &str, at: usize) -> Option<usize> {
    if !["r", "br", "cr"].contains(&prefix) {
        return None;
    }
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None;
    }
    let mut end = at + hashes + 1;
    while end < chars.len() {
        let closes = chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        end += 1;
        if closes {
            return Some(end + hashes);
        }
    }
    Some(end)
}

#[test]
fn paths_are_followed_to_the_file_that_defines_what_they_name() {
    let file = |path: &str, text: &str| File {
        path: format!("crates/x/src/{path}"),
        text: text.to_owned(),
    };
    let files = [
        file(
            "lib.rs",
            "//! `use a::B;`\nmod a;\npub mod c;\npub use a::{B, deep::D as E};\n",
        ),
        file(
            "a/mod.rs",
            "mod deep;\nuse std::fmt;\npub use self::deep::D;\npub struct B(&'static str);\n#[cfg(test)]\nmod tests { use crate::c::C; }\n",
        ),
        file(
            "a/deep.rs",
            "pub struct D; // use crate::c::C;\nfn f() -> char { let _ = \"crate::c::C\"; '{' }\n",
        ),
        file(
            "c.rs",
            "use crate::{B, E};\nuse super::a::D;\npub struct C;\n#[cfg(test)]\nuse crate::a::*;\nfn g() { crate::a::deep::h(r#\"x\"#) }\n",
        ),
    ];
    let found: Vec<String> = of_crate("x", &files)
        .iter()
        .map(|import| format!("{}:{} {} {}", import.from, import.line, import.to, import.path))
        .collect();
    assert_eq!(
        found,
        [
            "c.rs:1 a/mod.rs crate::B",
            "c.rs:1 a/deep.rs crate::E",
            "c.rs:2 a/deep.rs super::a::D",
            "c.rs:6 a/deep.rs crate::a::deep::h",
        ]
    );
}

//! Our Rust sources, line by line and without comments.

use std::fs;
use std::path::Path;

use countersign_tests::checkout;

pub(crate) struct Source {
    /// From the checkout's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Line number, from 1, and its code.
    pub(crate) fn code(&self) -> Vec<(usize, String)> {
        (1..).zip(without_comments(&self.text).lines().map(ToOwned::to_owned)).collect()
    }
}

/// Every `.rs` file below these folders of the checkout.
pub(crate) fn sources(folders: &[&str]) -> Vec<Source> {
    let root = checkout::root().unwrap();
    let mut found = Vec::new();
    for folder in folders {
        collect(&root, &root.join(folder), &mut found);
    }
    assert!(!found.is_empty(), "no sources in {folders:?}");
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(Source { path, text });
        }
    }
}

/// Whether a line of code has `word` as one or several whole identifiers: `sqlx` is not in `sqlxx`, `sqlx::query` is in `sqlx::query!`.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name))
}

/// Whether a line of code has an identifier that begins so: `apalis` is in `apalis_core::Backend`.
pub(crate) fn has_prefix(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The same text with every comment blanked out; strings, and the number of lines, stay as they are.
pub(crate) fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (length, is_comment) = token(rest, code.chars().next_back());
        let (this, after) = rest.split_at(length.max(next.len_utf8()));
        if is_comment {
            code.extend(this.chars().filter(|&c| c == '\n'));
        } else {
            code.push_str(this);
        }
        rest = after;
    }
    code
}

/// Length of the comment, literal or other character that `text` begins with, and whether it is a comment.
fn token(text: &str, before: Option<char>) -> (usize, bool) {
    if text.starts_with("//") {
        return (text.find('\n').unwrap_or(text.len()), true);
    }
    if text.starts_with("/*") {
        return (end_of_block(text), true);
    }
    let in_a_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let hashes = text.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
    if let Some(hashes) =
        hashes.filter(|&hashes| (!in_a_name || before == Some('b')) && text[1 + hashes..].starts_with('"'))
    {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = 2 + hashes;
        return (text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()), false);
    }
    if text.starts_with('"') {
        return (end_of_string(text), false);
    }
    // A character literal, not a lifetime.
    if let Some(rest) = text.strip_prefix('\'') {
        let mut characters = rest.char_indices();
        match (characters.next(), characters.next()) {
            (Some((_, '\\')), Some((_, escaped))) => {
                let from = 2 + escaped.len_utf8();
                return (text[from..].find('\'').map_or(1, |at| from + at + 1), false);
            }
            (Some(_), Some((at, '\''))) => return (at + 2, false),
            _ => {}
        }
    }
    (0, false)
}

fn end_of_block(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn comments_are_blanked_and_nothing_else() {
    for (text, code) in [
        ("a // sqlx\nb", "a \nb"),
        ("//! sqlx\n/// apalis\nfn f() {}", "\n\nfn f() {}"),
        ("a /* b /* c\n */ d */ e", "a \n e"),
        (r#"let url = "https://ca.example"; // no"#, r#"let url = "https://ca.example"; "#),
        (r#"let quote = "\"// kept"; // no"#, r#"let quote = "\"// kept"; "#),
        (r##"let raw = r#"a "// kept"#; // no"##, r##"let raw = r#"a "// kept"#; "##),
        ("let c = '\"'; // no\nlet d = '\\''; // no", "let c = '\"'; \nlet d = '\\''; "),
        ("fn f<'a>(x: &'a str) {} // no", "fn f<'a>(x: &'a str) {} "),
    ] {
        assert_eq!(without_comments(text), code, "{text}");
    }
}

#[test]
fn a_word_is_a_whole_identifier() {
    assert!(has_word("sqlx::query!(\"\")", "sqlx::query") && has_word("use sqlx;", "sqlx"));
    assert!(!has_word("sqlx::query_as!()", "sqlx::query") && !has_word("my_sqlx", "sqlx"));
    assert!(has_prefix("apalis_core::x", "apalis") && !has_prefix("unapalis", "apalis"));
}

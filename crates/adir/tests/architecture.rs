//! ARCHITECTURE.md names the floors of the library; imports must not go up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floors by module, as the table of ARCHITECTURE.md has them.
fn floors() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md")).unwrap();
    let mut floors = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, floor, modules, ..] = cells[..] else { continue };
        let Ok(floor) = floor.parse::<usize>() else { continue };
        for module in modules.split(',').map(|m| m.trim().trim_matches('`')) {
            assert!(floors.insert(module.to_owned(), floor).is_none(), "{module} stands on two floors");
        }
    }
    floors
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The code of a file as one text: without comments, and without the tests at its end, which may look anywhere.
fn code(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("mod tests {"));
    let lines = lines.map(|line| line.find("//").map_or(line, |at| &line[..at]));
    lines.collect::<Vec<_>>().join(" ")
}

/// The modules of the crate that a file's code names after `crate::`, in `use` items of any shape and elsewhere.
fn imports(text: &str) -> Vec<String> {
    let code = code(text);
    let after = code.match_indices("crate::").map(|(at, name)| &code[at + name.len()..]);
    after.flat_map(|rest| rest.strip_prefix('{').map_or_else(|| vec![word(rest)], heads)).collect()
}

/// The first words of the items of a braced list, whose opening brace is left out: what inner braces hold belongs to
/// the word before them.
fn heads(list: &str) -> Vec<String> {
    let mut depth = 1;
    let mut found = vec![String::new()];
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => found.push(String::new()),
            _ => {}
        }
        match depth {
            0 => break,
            1 if c != ',' => found.last_mut().expect("starts with one item").push(c),
            _ => {}
        }
    }
    found.iter().map(|item| word(item.trim())).filter(|name| !name.is_empty()).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// Every breach of the rule in a file of `module`.
fn breaches(floors: &BTreeMap<String, usize>, module: &str, text: &str) -> Vec<String> {
    let own = floors[module];
    let up = imports(text).into_iter().filter(|other| other != module);
    up.filter(|other| floors.get(other).is_some_and(|floor| *floor > own)).collect()
}

#[test]
fn imports_do_not_go_up() {
    let floors = floors();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    let mut checked = 0;
    for path in all {
        let inner = path.strip_prefix(&source).unwrap();
        let first = inner.iter().next().unwrap().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first);
        // The root and the prelude name everything; tests may look anywhere.
        let is_test = inner.iter().any(|part| part == "tests") || inner.ends_with("tests.rs");
        if ["lib", "prelude"].contains(&module) || is_test {
            continue;
        }
        assert!(floors.contains_key(module), "ARCHITECTURE.md puts {module} on no floor");
        let found = breaches(&floors, module, &fs::read_to_string(&path).unwrap());
        assert!(found.is_empty(), "{} on floor {} uses {found:?}", inner.display(), floors[module]);
        checked += 1;
    }
    assert!(checked > 80, "{checked} files");
}

#[test]
fn a_breach_is_found() {
    let floors = floors();
    let up = "use crate::engine::Plan;\nuse crate::{Error, sampler::Rule};\nlet x = crate::operator::solve;";
    assert_eq!(breaches(&floors, "operator", up), ["engine", "sampler"]);
    assert!(breaches(&floors, "engine", up).is_empty());
    assert!(breaches(&floors, "operator", "/// See [`crate::engine`].").is_empty());
}

#[test]
fn an_import_is_read_to_its_end() {
    let floors = floors();
    let long = "use crate::{\n    Error, // of crate::train\n    io::{\n        image::{Picture, Limits},\n        hash,\n    },\n    \
                restore::{Plan, engine},\n    units as u,\n    task::{self},\n};\nuse crate::metric::{\n    Case,\n};";
    assert_eq!(imports(long), ["Error", "io", "restore", "units", "task", "metric"]);
    assert_eq!(breaches(&floors, "operator", long), ["io", "restore", "task", "metric"]);
}

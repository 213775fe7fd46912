//! The repository's rules, as a test: who may name what, no `unsafe`, files of a readable length.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Stages never name each other; they meet in the files of [`MEETINGS`].
const STAGES: [&str; 6] = ["source", "preprocess", "detect", "track", "classify", "verdict"];
/// Where stages may meet, by the first part of a path below `src`.
const MEETINGS: [&str; 7] =
    ["lib.rs", "pipeline.rs", "follow.rs", "scan.rs", "watch", "report", "fuzzing.rs"];
/// What else may name a stage: file, stage, why.
const NAMED_ELSEWHERE: [(&str, &str, &str); 14] = [
    ("camera", "source", "a camera's JPEG is read as a file's is, and a clip may take a camera's place"),
    ("bundle", "verdict", "a manifest holds the limits that a verdict is made by"),
    ("gallery.rs", "verdict", "a gallery keeps as many crops as a verdict rests on"),
    ("dashboard", "classify", "a heat map of what a past verdict rests on"),
    ("dashboard", "track", "as many faces are shown as can be followed"),
    ("dashboard", "verdict", "verdicts are counted by kind"),
    ("config.rs", "detect", "the configuration holds the detector's settings"),
    ("slot", "classify", "a trial starts with the new classifier's golden outputs"),
    ("slot", "verdict", "a candidate's verdicts are compared with those of the model in use"),
    ("evidence", "verdict", "a log's verdicts are judged again"),
    ("evidence", "track", "as many verdicts may wait as faces can be over at once"),
    ("outlet", "track", "as many faces are known of as can be followed"),
    ("outlet", "verdict", "which verdicts are worth an alarm can be set"),
    ("cli.rs", "source", "the frame rate of a folder is an option"),
];
/// The most lines of a file.
const MAX_LINES: usize = 500;
/// Longer files, each with the reason.
const LONG_FILES: [(&str, &str); 1] =
    [("runtime/src/source/h264/mod.rs", "one decoder's state; without its tests it is under the limit")];

/// The engine's crate.
const ENGINE: &str = "runtime/engine/src/";
/// Files and folders, by the start of their paths, that may hold `unsafe` code.
const UNSAFE_FILES: [&str; 5] = [
    "runtime/src/camera/linux/",
    "runtime/engine/src/kernels/",
    "runtime/engine/src/memory.rs",
    "runtime/engine/src/run.rs",
    "runtime/engine/src/team.rs",
];

/// A source file: its path from the repository, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The path below `runtime/src`, or below that of what sees pixels, for files that are there.
    fn in_src(&self) -> Option<&str> {
        ["runtime/src/", "runtime/vision/src/"].iter().find_map(|folder| self.path.strip_prefix(folder))
    }

    /// First part of the path below `src`: a stage's folder or a file.
    fn room(&self) -> Option<&str> {
        self.in_src()?.split('/').next()
    }

    /// The lines of code with their numbers from 1; comments are left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(idx, line)| (idx + 1, line));
        lines.map(|(n, line)| (n, line.split("//").next().unwrap_or("")))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in [
        "runtime/src",
        "runtime/engine",
        "runtime/vision",
        "runtime/tests",
        "runtime/examples",
        "trainer-bridge",
    ] {
        collect(folder, &mut found);
    }
    assert!(found.len() > 50, "only {} files: the walk is broken", found.len());
    found
}

fn collect(folder: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(repository().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(&path, found);
        } else if path.ends_with(".rs") {
            found.push(Source { text: fs::read_to_string(entry.path()).unwrap(), path });
        }
    }
}

/// The identifiers of a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

/// The modules that a piece of code names, as `crate::x`, `super::x`, `candor_vision::x` or in the braces of
/// such a path.
fn modules_named(code: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for root in ["crate::", "super::", "candor_vision::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => named.extend(heads_of_group(group)),
                None => named.extend(words(rest).next()),
            }
        }
    }
    named
}

/// First word of each item of `a::b, c::{d, e}, f}...`.
fn heads_of_group(group: &str) -> Vec<&str> {
    let (mut heads, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(words(&group[start..at]).next());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

/// Fails with everything that was found, so that one run shows all of it.
fn expect_none(rule: &str, found: &[String]) {
    let mut list = String::new();
    for breach in found {
        let _ = writeln!(list, "  {breach}");
    }
    assert!(found.is_empty(), "{rule}:\n{list}");
}

#[test]
fn only_the_engine_names_tract() {
    let mut found = Vec::new();
    for source in sources() {
        if source.path.starts_with(ENGINE) || source.path.ends_with("tests/tidy.rs") {
            continue;
        }
        for (n, code) in source.code() {
            if words(code).any(|w| w.starts_with("tract")) {
                found.push(format!("{}:{n}", source.path));
            }
        }
    }
    expect_none("tract is named outside runtime/engine/src", &found);
}

#[test]
fn stages_meet_only_where_they_should() {
    let mut found = Vec::new();
    for source in sources() {
        let Some(room) = source.room() else { continue };
        if MEETINGS.contains(&room) {
            continue;
        }
        let code: String = source.code().flat_map(|(_, line)| [line, "\n"]).collect();
        for stage in modules_named(&code) {
            let is_named_elsewhere = NAMED_ELSEWHERE.iter().any(|(r, s, _)| (*r, *s) == (room, stage));
            if STAGES.contains(&stage) && stage != room && !is_named_elsewhere {
                found.push(format!("{} names {stage}", source.path));
            }
        }
    }
    expect_none("a stage is named where stages don't meet", &found);
}

#[test]
fn a_path_gives_the_modules_that_it_names() {
    let code = "use crate::track::Tracker;\nuse crate::{geom::Rect, source::{self, open},\n detect};";
    assert_eq!(modules_named(code), ["track", "geom", "source", "detect"]);
    assert_eq!(modules_named("super::super::verdict::mean(&s)"), ["super", "verdict"]);
    assert_eq!(modules_named("candor_vision::detect::Mtcnn"), ["detect"]);
    assert_eq!(modules_named("pub(crate) fn f() {}"), [""; 0]);
}

#[test]
fn unsafe_code_is_where_it_is_listed() {
    let mut found = Vec::new();
    let is_listed = |s: &Source| UNSAFE_FILES.iter().any(|listed| s.path.starts_with(listed));
    let is_shipped = |s: &Source| {
        s.in_src().is_some() || s.path.starts_with(ENGINE) || s.path.starts_with("trainer-bridge/")
    };
    for source in sources().iter().filter(|s| is_shipped(s) && !is_listed(s)) {
        for (n, code) in source.code() {
            if words(code).any(|w| w == "unsafe" || w == "unsafe_code") {
                found.push(format!("{}:{n}", source.path));
            }
        }
    }
    expect_none("unsafe code", &found);
}

#[test]
fn files_are_of_a_readable_length() {
    let sources = sources();
    let mut found = Vec::new();
    for source in &sources {
        let n_lines = source.text.lines().count();
        let is_allowed = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if n_lines > MAX_LINES && !is_allowed {
            found.push(format!("{}: {n_lines} lines, expected at most {MAX_LINES}", source.path));
        }
        if n_lines <= MAX_LINES && is_allowed {
            found.push(format!("{}: {n_lines} lines, needs no exception any more", source.path));
        }
    }
    for (path, _) in LONG_FILES {
        if !sources.iter().any(|s| s.path == path) {
            found.push(format!("{path}: has an exception and doesn't exist"));
        }
    }
    expect_none("lengths of files", &found);
}

#[test]
fn every_file_says_what_it_is_for() {
    let sources = sources();
    let in_src = sources.iter().filter(|s| s.path.contains("/src/"));
    // A file of unit tests is for what its folder's other files are for.
    let found: Vec<String> = in_src
        .filter(|s| !s.path.ends_with("/tests.rs") && !s.text.starts_with("//! "))
        .map(|s| s.path.clone())
        .collect();
    expect_none("no //! head", &found);
}

//! The documents against the code and against each other: links, the table of failures and its tests, variables, log lines.

#[path = "support/module.rs"]
mod module;

use std::{cell::RefCell, collections::BTreeSet, fs, path::Path};

use inline_workflow::environment::Environment;
use module::{path, read};

const DOCUMENTS: [&str; 9] = [
    "README.md",
    "CHANGELOG.md",
    "fixtures/README.md",
    "function/docs/ARCHITECTURE.md",
    "function/docs/events.md",
    "function/docs/operations.md",
    "function/docs/requests.md",
    "function/workflow/benches/README.md",
    "tf/README.md",
];
const OPERATIONS: &str = "function/docs/operations.md";

/// A document without its blocks of code.
fn prose(file: &str) -> String {
    let text = read(file);
    let mut is_code = false;
    let mut keep = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    text.lines().filter(|line| keep(line)).collect::<Vec<_>>().join("\n")
}

/// What stands between `## heading` and the next one.
fn section(file: &str, heading: &str) -> String {
    let text = format!("\n{}", read(file));
    let section = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{file}: no {heading}")).1;
    section.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(file: &str) -> BTreeSet<String> {
    let slug = |heading: &str| {
        let kept = heading.trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect::<String>()
    };
    prose(file).lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}

/// The texts in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The first cells of a table's rows.
fn first_cells(section: &str) -> impl Iterator<Item = &str> {
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for file in DOCUMENTS {
        for link in prose(file).split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()) {
            if link.starts_with("https://") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(file).parent().unwrap_or(Path::new(""));
            let target = if target.is_empty() { Path::new(file).to_owned() } else { folder.join(target) };
            let target = target.to_str().expect("text");
            assert!(path(target).exists(), "{file}: {link} does not exist");
            assert!(anchor.is_empty() || anchors(target).contains(anchor), "{file}: {link} has no such heading");
            links += 1;
        }
    }
    assert!(links > 30, "{links}");
}

/// The source of a test program.
fn test_source(program: &str) -> String {
    let folder = path(&format!("function/workflow/tests/{program}"));
    if !folder.is_dir() {
        return read(&format!("function/workflow/tests/{program}.rs"));
    }
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    files.map(|file| fs::read_to_string(file).expect("a source")).collect()
}

#[test]
fn every_line_of_what_fails_names_a_test_that_exists() {
    let section = section(OPERATIONS, "What fails, what happens");
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what fails"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert!(cells.len() == 3 && quoted(cells[2]).next().is_some(), "no test: {row}");
        count += 1;
    }
    assert!(count > 50, "{count}");
    for (program, test) in quoted(&section).filter_map(|name| name.split_once(": ")) {
        if program.contains('"') {
            continue;
        }
        assert!(test_source(program).contains(&format!("fn {test}(")), "{program}: there is no test {test}");
    }
}

#[test]
fn every_variable_of_the_environment_is_documented_and_no_other() {
    let asked = RefCell::new(BTreeSet::new());
    let _ = Environment::from_lookup(|name| {
        asked.borrow_mut().insert(name.to_owned());
        None
    });
    let section = section(OPERATIONS, "Environment");
    let table = section.split("\n### ").next().unwrap_or_default();
    let documented: BTreeSet<String> = first_cells(table)
        .flat_map(|cell| cell.split('`').step_by(2))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, asked.into_inner());
}

#[test]
fn every_log_line_of_the_documents_is_one_of_the_code() {
    let folder = path("function/workflow/src");
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    let source: String =
        files.filter(|file| file.is_file()).map(|file| fs::read_to_string(file).expect("text")).collect();
    let section = section(OPERATIONS, "Logs");
    let table = section.split_once("| log line |").expect("a table of log lines").1;
    let lines: Vec<&str> = first_cells(table).map(|cell| cell.trim_end_matches('`')).collect();
    assert!(lines.len() > 15, "{lines:?}");
    for line in lines {
        assert!(source.contains(&format!("{line}\"")), "no log line ends with {line:?}");
    }
}

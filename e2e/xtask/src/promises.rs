//! Documents that promise a test by its name: the test must be there.

use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs, path::Path};

/// Document and heading below which each word in backticks that looks like a test's name is one. Other such words, of metrics for instance, stand elsewhere.
const PLACES: [(&str, &str); 3] =
    [("ARCHITECTURE.md", "## Invariants"), ("docs/testing.md", "## Bugs of others"), ("docs/replication.md", "## What happens when")];

/// Names every test that is promised and is not among `sources`.
pub(crate) fn check<'a>(root: &Path, sources: impl Iterator<Item = &'a str>, wrong: &mut Vec<String>) -> Result<()> {
    check_places(root, &PLACES, sources, wrong)
}

fn check_places<'a>(root: &Path, places: &[(&str, &str)], sources: impl Iterator<Item = &'a str>, wrong: &mut Vec<String>) -> Result<()> {
    let tests: BTreeSet<&str> = sources.flat_map(tests).collect();
    for (document, heading) in places {
        let text = fs::read_to_string(root.join(document)).with_context(|| format!("reading {document}"))?;
        let promised = promised(&text, heading);
        if promised.is_empty() {
            wrong.push(format!("{document}: no test is named below {heading:?}"));
        }
        wrong.extend(promised.iter().filter(|name| !tests.contains(*name)).map(|name| format!("{document}: there is no test {name}")));
    }
    Ok(())
}

/// Functions right below a test attribute; other attributes and comments may stand in between.
fn tests(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            names.extend(name.filter(|_| is_test));
            is_test = false;
        }
    }
    names
}

/// Words in backticks below a heading and before the next that look like a test's name.
fn promised<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let section = text.split("\n## ").find(|section| section.starts_with(heading.trim_start_matches("## ")));
    let words = section.unwrap_or_default().split('`').skip(1).step_by(2);
    words.filter(|word| word.matches('_').count() >= 2 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_other_functions() {
        let source = "#[test]\nfn a_b_c() {\n}\nfn helper() {}\n    #[tokio::test]\n    #[ignore = \"slow\"]\n    async fn d_e_f() {}\n#[test]\nconst X: u8 = 0;\nfn g() {}";
        assert_eq!(tests(source), ["a_b_c", "d_e_f"]);
    }

    #[test]
    fn names_count_only_below_their_heading() {
        let text = "# T\n`not_a_test`\n## Bugs of others\nIn `some/path.rs` is `a_b_c`, `two_words` and `Type_x_y`.\n## Next\n`d_e_f`";
        assert_eq!(promised(text, "## Bugs of others"), ["a_b_c"]);
    }

    #[test]
    fn a_promise_without_its_test_is_told() {
        let folder = tempfile::tempdir().expect("a directory");
        fs::create_dir(folder.path().join("docs")).expect("made");
        fs::write(folder.path().join("ARCHITECTURE.md"), "# A\n## Invariants\n`it_is_there`").expect("written");
        fs::write(folder.path().join("docs/testing.md"), "# T\n## Bugs of others\n`it_is_gone`").expect("written");
        let mut wrong = Vec::new();
        let places = [("ARCHITECTURE.md", "## Invariants"), ("docs/testing.md", "## Bugs of others")];
        check_places(folder.path(), &places, ["#[test]\nfn it_is_there() {}"].into_iter(), &mut wrong).expect("readable");
        assert_eq!(wrong, ["docs/testing.md: there is no test it_is_gone"]);
    }
}

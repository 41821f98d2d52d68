use crate::harness::Site;
use serde_json::{Value, json};

/// Three messages in queue 0 of topic `t`.
fn with_three() -> Site {
    let site = Site::start();
    site.run("topic create t --queues 1").well();
    site.run_with("produce t", "one\ntwo\nthree\n").well();
    site
}

fn place(site: &Site) -> (Value, Value) {
    let row = site.json("offset show t --group g")[0].clone();
    (row["offset"].clone(), row["lag"].clone())
}

#[test]
fn offsets_are_shown_searched_and_reset() {
    let site = with_three();
    let row = site.json("offset show t")[0].clone();
    assert_eq!((&row["min_offset"], &row["max_offset"], &row["offset"]), (&json!(0), &json!(3), &Value::Null));
    assert_eq!(site.json("offset search t --time 0")[0]["offset"], 0);
    assert_eq!(site.json("offset search t --time 9999-01-01")[0]["offset"], 3);

    site.run("consume t --group g").well();
    assert_eq!(place(&site), (json!(3), json!(0)));
    site.run("offset reset t --group g --to earliest").badly(2, &["--yes"]);
    let moved = site.json("offset reset t --group g --to earliest --yes")[0].clone();
    assert_eq!((&moved["queue_id"], &moved["before"], &moved["offset"]), (&json!(0), &json!(3), &json!(0)));
    assert_eq!(place(&site), (json!(0), json!(3)));
    assert_eq!(site.run("consume t --group g --max 1").well().stdout, "one\n");
    assert!(site.run("offset reset t --group g --to latest --yes").well().stdout.starts_with("BROKER"));
    assert_eq!(place(&site), (json!(3), json!(0)));
}

#[test]
fn a_reset_moves_a_consumer_that_runs_and_its_commits_do_not_undo_it() {
    let site = with_three();
    let consumer = site.follow("consume t --group g --follow");
    assert_eq!(consumer.until(3), ["one", "two", "three"]);
    // It has committed that, and comes to the same place again.
    site.until("the first commit", || place(&site) == (json!(3), json!(0)));
    site.run("offset reset t --group g --to earliest --yes").well();
    assert_eq!(consumer.until(6)[3..], ["one", "two", "three"]);
    // It commits what it has at its end.
    consumer.interrupt();
    assert_eq!(place(&site), (json!(3), json!(0)));
}

#[test]
fn a_consumer_that_says_where_it_starts_is_not_moved_by_a_reset_before_it() {
    let site = with_three();
    site.run("consume t --group g --max 2").well();
    site.run("offset reset t --group g --to latest --yes").well();
    assert_eq!(site.run("consume t --group g --from earliest").well().stdout, "one\ntwo\nthree\n");
    site.run("offset reset t --group g --to latest --yes").well();
    assert_eq!(site.run("consume t --group g --from earliest --max 1").well().stdout, "one\n");
    assert_eq!(place(&site), (json!(1), json!(2)));
    // What it commits before its first pull is left out, so it has to come once more even where nothing is read.
    site.run("offset reset t --group g --to earliest --yes").well();
    assert_eq!(site.run("consume t --group g --from latest").well().stdout, "");
    assert_eq!(place(&site), (json!(3), json!(0)));
}

#[test]
fn a_name_that_was_mistyped_is_refused_and_does_not_become_a_group() {
    let site = with_three();
    site.run("consume t --group g").well();
    site.run("offset reset t --group gg --to earliest --yes").badly(3, &["the consumer group gg does not exist", "`sluice group list`"]);
    site.run("offset show t --group gg").badly(3, &["no broker knows the group gg", "`sluice group list`"]);
    assert_eq!(site.json("group list").as_array().map(Vec::len), Some(1));
    site.run("offset reset tt --group g --to earliest --yes").badly(3, &["the topic tt does not exist", "`sluice topic create tt`"]);
    site.run("offset reset t --group g --to soon --yes").badly(2, &["none of earliest, latest"]);
    assert_eq!(place(&site), (json!(3), json!(0)));
}

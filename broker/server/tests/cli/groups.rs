use crate::harness::Site;
use serde_json::json;

#[test]
fn groups_are_created_changed_described_and_deleted() {
    let site = Site::start();
    assert_eq!(site.json("group create readers --retry-max 3"), json!({"group": "readers", "brokers": [site.broker], "done": "created"}));
    site.run("group create readers").badly(1, &["the group readers exists already", "`sluice group update readers`"]);
    assert_eq!(site.json("group create readers --if-not-exists")["done"], "exists");
    let changed = site.json("group update readers --orderly");
    assert_eq!(changed["changes"], json!([{"broker": site.broker, "setting": "orderly", "from": "false", "to": "true"}]));
    assert_eq!(site.json("group list"), json!([{"group": "readers", "retry_max": 3, "orderly": true, "enabled": true}]));
    site.run("group update readers").badly(2, &["--retry-max"]);
    site.run("group update reeders --orderly").badly(3, &["no broker knows the group reeders", "`sluice group list`"]);

    site.run("produce t --body x").well();
    site.run("consume t --group readers").well();
    let shown = site.json("group describe readers --topic t");
    assert_eq!((&shown["known"], shown["queues"].as_array().map(Vec::len)), (&json!(true), Some(4)));
    assert!(shown["queues"].as_array().is_some_and(|queues| queues.iter().all(|q| q["lag"] == 0)));
    assert!(site.run("group describe readers").well().stdout.contains("lag      0 messages"));

    site.run("group update readers --enabled false").well();
    site.run("consume t --group readers").badly(1, &["NoPermission", "the group readers may not consume", "`sluice group update GROUP --enabled true`"]);

    site.run("group delete readers").badly(2, &["--yes"]);
    assert_eq!(site.json("group delete readers --yes"), json!({"group": "readers", "brokers": [site.broker], "done": "deleted"}));
    site.run("group describe readers").badly(3, &["no broker knows the group readers"]);
    site.run("group describe readers --topic t").badly(3, &["no broker knows the group readers"]);
    site.run("group delete readers --yes").badly(3, &["the consumer group readers does not exist"]);
}

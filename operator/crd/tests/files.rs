//! What is written in `crds/` is what the code says.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn the_files_of_crds_are_what_the_code_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    let listed = fs::read_dir(&folder).expect("crds/ is there");
    let written: BTreeMap<String, String> = listed
        .map(|file| {
            let file = file.expect("listed");
            (file.file_name().to_string_lossy().into_owned(), fs::read_to_string(file.path()).expect("readable"))
        })
        .collect();
    let made: BTreeMap<_, _> = sluice_crd::files().expect("YAML").into_iter().collect();
    assert!(written == made, "crds/ differs from the code: run `cargo xtask crds`");
}

fn check(place: &str, schema: &JSONSchemaProps) {
    assert!(schema.description.as_ref().is_some_and(|text| text.len() > 10), "{place} has no description, which is its manual");
    for (name, inner) in schema.properties.iter().flatten() {
        check(&format!("{place}.{name}"), inner);
    }
    if let Some(items) = serde_json::to_value(&schema.items).ok().filter(|items| items.is_object()) {
        check(&format!("{place}[]"), &serde_json::from_value(items).expect("a schema"));
    }
}

#[test]
fn every_field_has_its_manual() {
    for crd in sluice_crd::all() {
        for version in crd.spec.versions {
            let schema = version.schema.and_then(|schema| schema.open_api_v3_schema).expect("a schema");
            for (name, part) in schema.properties.iter().flatten() {
                check(&format!("{}.{name}", crd.spec.names.kind), part);
            }
        }
    }
}

//! The Terraform module in `tf/` as its files have it.

#![allow(dead_code, reason = "each test program uses its own part of it")]

use std::{fs, path::PathBuf};

use hcl::{Block, Body, Expression};

/// Of a file of the repository.
pub fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)
}

pub fn read(file: &str) -> String {
    let path = path(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of the module.
pub fn parse(file: &str) -> Body {
    hcl::parse(&read(&format!("tf/{file}"))).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The blocks of a kind.
pub fn blocks<'a>(body: &'a Body, kind: &'a str) -> impl Iterator<Item = &'a Block> {
    body.blocks().filter(move |block| block.identifier() == kind)
}

/// The blocks of a kind with this first label: `resource "google_storage_bucket"`.
pub fn labelled<'a>(body: &'a Body, kind: &'a str, label: &'a str) -> impl Iterator<Item = &'a Block> {
    blocks(body, kind).filter(move |block| block.labels()[0].as_str() == label)
}

pub fn attribute<'a>(body: &'a Body, key: &str) -> Option<&'a Expression> {
    Some(&body.attributes().find(|attribute| attribute.key() == key)?.expr)
}

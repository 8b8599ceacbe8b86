//! `reheat tokenize`: what a text becomes.
use std::{io::Read as _, path::PathBuf};

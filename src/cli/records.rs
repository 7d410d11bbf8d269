//! Reads records from files, folders and standard input, for the commands that process them.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use super::Failure;
use crate::decode::{Decoder, Piece};
use crate::source::file;

/// The maximum expansion of a compressed file, as a factor, before it is considered a decompression bomb.
const MAX_EXPANSION: u32 = 200;

/// Takes one piece: name of the file, index of the piece in it from 0, piece.
pub(super) type Take<'t> = dyn FnMut(&str, usize, Piece) -> Result<(), Failure> + 't;

/// Refuses to wait for records from a terminal.
pub(super) fn given(files: &[PathBuf], command: &str) -> Result<(), Failure> {
    if files.is_empty() && io::stdin().is_terminal() {
        let message = format!("name the files to read, or pipe records in: catchment {command} trail.json.gz");
        return Err(Failure::Usage(message));
    }
    Ok(())
}

/// Passes every piece of all files to `take`, in order; of standard input for `-`, or if no file is named.
pub(super) fn each(files: &[PathBuf], take: &mut Take<'_>) -> Result<(), Failure> {
    let standard_input = [PathBuf::from("-")];
    let named = if files.is_empty() { &standard_input[..] } else { files };
    for path in named {
        if path.as_os_str() == "-" {
            read("-", io::stdin().lock(), take)?;
        } else if path.is_dir() {
            for file in file::files(path) {
                open(&file.map_err(|error| Failure::run("read records", error))?, take)?;
            }
        } else {
            open(path, take)?;
        }
    }
    Ok(())
}

fn open(path: &Path, take: &mut Take<'_>) -> Result<(), Failure> {
    let file = File::open(path).map_err(|error| Failure::run(format!("read {}", path.display()), error))?;
    read(&path.to_string_lossy(), file, take)
}

fn read(name: &str, input: impl Read, take: &mut Take<'_>) -> Result<(), Failure> {
    let unreadable = |error: io::Error| Failure::run(format!("read {name}"), error);
    let decoder = Decoder::new(input, MAX_EXPANSION).map_err(unreadable)?;
    for (index, piece) in decoder.pieces().enumerate() {
        take(name, index, piece.map_err(unreadable)?)?;
    }
    Ok(())
}

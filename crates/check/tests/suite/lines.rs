//! Generated histories as lines that a test can change.

use std::io::Write;
use std::sync::{Arc, Mutex};

use jangada_check::generate::{self, Options};
use jangada_check::{Recorder, Verdict, check, format};
use serde_json::Value as Json;

/// A writer whose bytes can be had while somebody else owns it.
#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nothing panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines of a correct history.
pub fn generated(options: &Options) -> Vec<Json> {
    let output = Shared::default();
    let (clock, time) = generate::clock();
    let recorder = Recorder::with_output(clock, output.clone());
    generate::generate(options, &time, &recorder);
    recorder.finish().expect("memory can be written");
    let bytes = output.0.lock().expect("nothing panicked");
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).expect("a line is JSON"))
        .collect()
}

/// Numbers the events anew, where some were put in or taken out, and gives each the time of the one before if it would go back.
pub fn renumber(lines: &mut [Json]) {
    let mut numbers = std::collections::HashMap::new();
    let mut last = 0;
    for (index, line) in lines.iter_mut().enumerate() {
        if let Some(before) = line["index"].as_u64() {
            numbers.insert(before, index as u64);
        }
        line["index"] = (index as u64).into();
        last = line["time"].as_u64().unwrap_or(last).max(last);
        line["time"] = last.into();
        if let Some(call) = line["invocation"].as_u64() {
            line["invocation"] = numbers[&call].into();
        }
    }
}

/// The bytes of lines.
pub fn bytes(lines: &[Json]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line).expect("memory can be written");
        bytes.push(b'\n');
    }
    bytes
}

/// What is said of lines.
pub fn judge(mut lines: Vec<Json>) -> Verdict {
    renumber(&mut lines);
    let history = format::read(&bytes(&lines)[..]).unwrap_or_else(|error| panic!("{error}"));
    check(&history)
}

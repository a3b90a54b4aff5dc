//! Lines of stdin or of a file, as they come, for commands that send each as a message.

use std::path::Path;

use bytes::Bytes;
use jangada_types::limits::BATCH_BYTES_MAX;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::ctrl_c;

use crate::errors::{CliError, Result};
use crate::text::lines::LineSplitter;

/// Bytes of the longest line. JSON takes more than the bytes that it stands for.
const LINE_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;
/// Bytes of the buffer for one piece of input.
const READ_BYTES: usize = 256 * 1024;

/// The input of a command.
pub struct LineInput {
    source: Box<dyn AsyncRead + Send + Unpin>,
    splitter: LineSplitter,
    is_end: bool,
}

impl LineInput {
    /// The lines of the file, or of stdin, which end with the delimiter, or with a newline.
    pub async fn open(file: Option<&Path>, delimiter: Option<&str>) -> Result<LineInput> {
        let source: Box<dyn AsyncRead + Send + Unpin> = match file {
            None => Box::new(tokio::io::stdin()),
            Some(path) => {
                let opened = File::open(path).await;
                Box::new(opened.map_err(|error| CliError::new(format!("cannot read {}: {error}", path.display())))?)
            }
        };
        Ok(LineInput {
            source,
            splitter: LineSplitter::new(LINE_BYTES_MAX, delimiter.unwrap_or("\n").as_bytes()),
            is_end: false,
        })
    }

    /// The next line, with its number from 1 on; none at the end of the input. Ctrl-c while it is waited for is an error.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>> {
        loop {
            let line = self.splitter.next_line();
            let line = line
                .map_err(|error| CliError::new(format!("line {} is longer than {} bytes", error.line, error.limit)))?;
            if let Some(line) = line {
                return Ok(Some((self.splitter.line_number(), line)));
            }
            if self.is_end {
                let last = self.splitter.finish();
                return Ok(last.map(|line| (self.splitter.line_number(), line)));
            }
            self.splitter.buffer().reserve(READ_BYTES);
            let read = tokio::select! {
                read = self.source.read_buf(self.splitter.buffer()) => read,
                _ = ctrl_c() => return Err(CliError::new("interrupted")),
            };
            let read = read.map_err(|error| CliError::new(format!("cannot read the input: {error}")))?;
            self.is_end = read == 0;
        }
    }
}

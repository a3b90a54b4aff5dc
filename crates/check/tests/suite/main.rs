//! Tests of the checker: golden histories, random ones without mistakes, the same with one mistake each, bad input, size.

mod golden;
mod input;
mod large;
mod lines;
mod mutations;
mod properties;
mod recording;

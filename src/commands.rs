//! One file per command.

pub mod check;
pub mod demo;
pub mod run;
pub mod services;

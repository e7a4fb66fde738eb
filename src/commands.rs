//! Commands of the `finback` program, a file for each.

pub mod check;
pub mod demo;
pub mod explain;
pub mod health;
pub mod run;
pub mod services;
pub mod tap;
pub mod top;

//! One file per command.

pub mod check;
pub mod demo;
pub mod explain;
pub mod health;
pub mod run;
pub mod services;
pub mod tap;
pub mod top;

//! The `finback` command.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use finback::commands::{check, demo, explain, health, run, services, tap, top};
use finback::{config, log};
use tracing::level_filters::LevelFilter;

// Tasks and bodies of many sizes come and go with each request; measured in docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A multi-protocol mesh proxy: Bolt (SOFA-RPC), Dubbo, gRPC, HTTP, MQTT, RocketMQ and TCP through one
/// routing core.
#[derive(Parser)]
#[command(
    version,
    after_help = "Log lines go to stderr; RUST_LOG sets which: error, warn, info, debug, trace or off, and \
MODULE=LEVEL for a module, separated by commas. It goes before `log` in the configuration."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the mesh until SIGTERM or SIGINT.
    ///
    /// Reloads the file when it changes or on SIGHUP: whole, or not at all. Prints one line per
    /// listener and then `ready`. On SIGTERM it accepts no more, tells clients to go away,
    /// finishes what is in flight and exits 0; a second signal ends it at once.
    Run {
        /// The configuration file.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Listen on addresses that another process listens on, too: start the new process so, and stop
        /// the old one when the new one says `ready`. Without it an address that is taken is refused.
        #[arg(long)]
        take_over: bool,
    },
    /// Check a configuration file: exit 0 if it is good, 1 with FILE:LINE:COLUMN for each mistake if not.
    ///
    /// What is allowed and probably not meant, such as a route that no call can reach, is said as a
    /// warning; the file is good all the same.
    Check {
        /// The configuration file.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Do not read the files that it names: keys, certificates, passwords.
        #[arg(long)]
        no_files: bool,
    },
    /// Print the configuration file's JSON Schema.
    Schema,
    /// List what registries say of services: endpoints, labels, weight and age.
    Services(services::Options),
    /// Ask whether it lives: exit 0 if it does, 1 if not. For probes of containers without curl.
    Health(health::Options),
    /// Explain which way a call would take, and why: exit 0 if it would be served, 1 if not.
    ///
    /// Asks the process that runs with this file, of which endpoints are known; where none runs, the
    /// file alone is looked at.
    Explain(explain::Options),
    /// Show what is called, how often, how fast and with how many errors, anew every two seconds.
    Top(top::Options),
    /// Show exchanges as they end.
    ///
    /// One line each, by filter, so many a second at most. What you cannot read in time is left out and
    /// counted; the calls themselves never wait for it.
    Tap(tap::Options),
    /// Show it at work, with no server and no file: services, proxy and callers in one process.
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let default = match arguments.command {
        // What is printed is the answer; only trouble stands beside it.
        Command::Services(_)
        | Command::Health(_)
        | Command::Explain(_)
        | Command::Top(_)
        | Command::Tap(_) => LevelFilter::WARN,
        _ => LevelFilter::INFO,
    };
    // Written to its end last of all.
    let _written = match log::begin(default) {
        Ok(written) => written,
        Err(why) => {
            log::complain(format_args!("{why}"));
            return ExitCode::FAILURE;
        }
    };
    raise_descriptor_limit();
    execute(arguments.command).unwrap_or_else(|error| {
        // Without a backtrace, whatever RUST_BACKTRACE says: it is an operator's error, or the system's.
        log::complain(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    // Calls are carried by the workers' own threads; this runtime only keeps them supplied.
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()?;
    let exit = match command {
        Command::Run { config, take_over } => control.block_on(run::run(config, take_over)),
        Command::Check { config, no_files } => Ok(check::check(&config, no_files)),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&config::schema())?;
            log::say(format_args!("{schema}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Services(options) => control.block_on(services::services(options)),
        Command::Health(options) => control.block_on(health::health(options)),
        Command::Explain(options) => control.block_on(explain::explain(options)),
        Command::Top(options) => control.block_on(top::top(options)),
        Command::Tap(options) => control.block_on(tap::tap(options)),
        Command::Demo(options) => control.block_on(demo::demo(options)),
    };
    control.shutdown_background();
    exit
}

/// Raises the soft limit of open files to the hard one, as servers do: the soft one is low for the sake
/// of programs that use `select`, and each connection takes a descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(?current, ?maximum, "raised the limit of open files"),
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "cannot raise the limit of open files");
        }
    }
}

//! The `catchment` program. Everything it does is in the library, beginning with [`catchment::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    catchment::cli::main()
}

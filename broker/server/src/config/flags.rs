//! One flag for every key, made from the table.

use super::KEYS;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, parser::ValueSource};
use std::path::PathBuf;

/// `--config FILE` and one flag a key.
#[derive(Clone, Debug, Default)]
pub struct ConfigFlags {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Keys given as flags, by name.
    pub values: Vec<(&'static str, String)>,
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one::<PathBuf>("config_file").cloned();
        let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        self.values = KEYS.iter().filter(|key| given(key.name)).filter_map(|key| Some((key.name, matches.get_one::<String>(key.name)?.clone()))).collect();
        Ok(())
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config_file")
            .long("config")
            .short('c')
            .value_name("FILE")
            .env("SLUICE_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file (YAML); `sluice config --explain` lists its keys");
        KEYS.iter().fold(command.arg(file), |command, key| {
            let help = format!("{} [default: {}]", key.why.split(". ").next().unwrap_or(key.why).trim_end_matches('.'), key.default);
            let value_name = key.unit.to_uppercase().replace(' ', "_");
            command.arg(Arg::new(key.name).long(key.flag()).value_name(value_name).help(help).long_help(format!(
                "{} Allowed: {}. Environment: {}. [default: {}]",
                key.why,
                key.allowed,
                key.variable(),
                key.default
            )))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

//! `vmlan import`: what it is told, where the configuration goes, and how the report is printed.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::report::{Fate, Place, Report, printable};
use super::{Imported, import, sources};

/// What `vmlan import` is told.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Files (nat.conf, dhcpd.conf, networking), or directories that they are in as in /etc/vmware
    #[arg(value_name = "PATH", default_value = sources::HOME)]
    paths: Vec<PathBuf>,
    /// Where to write the configuration, - for standard output; the report goes to standard error
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Overwrite FILE if there is one
    #[arg(long, requires = "output")]
    force: bool,
    /// Print the report, and the configuration unless it goes to a file, as JSON
    #[arg(long)]
    json: bool,
}

impl ImportArgs {
    /// Imports, writes and reports.
    ///
    /// # Errors
    ///
    /// What was imported cannot be written.
    pub fn execute(&self) -> anyhow::Result<ExitCode> {
        let mut report = Report::default();
        let inputs = sources::read(&self.paths, &mut report);
        let imported = if inputs.is_empty() {
            None
        } else {
            import(&inputs, &mut report)
        };
        let imported = imported.filter(|_| report.makes_sense());
        let names: Vec<_> = inputs.into_iter().map(|input| input.name).collect();
        let file = (self.output != Path::new("-")).then_some(&*self.output);
        if let (Some(imported), Some(file)) = (&imported, file) {
            self.write(file, &imported.text)?;
        }
        if self.json {
            let report = as_json(&report, &names, imported.as_ref(), file);
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            if let (Some(imported), None) = (&imported, file) {
                let mut stdout = io::stdout().lock();
                stdout.write_all(imported.text.as_bytes())?;
                stdout.flush()?;
            }
            let text = as_text(&report, &names, imported.as_ref(), file);
            io::stderr().write_all(text.as_bytes())?;
        }
        Ok(match imported {
            Some(_) => ExitCode::SUCCESS,
            None => ExitCode::FAILURE,
        })
    }

    fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true);
        if self.force {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        let name = path.display();
        let mut file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::bail!(
                "{name} is there already; name another file, or add --force to overwrite it"
            ),
            opened => opened.with_context(|| format!("cannot write {name}"))?,
        };
        file.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {name}"))
    }
}

fn at(place: Option<Place>, names: &[String]) -> String {
    let named = place.and_then(|place| Some((names.get(place.file)?, place.line)));
    named.map_or_else(String::new, |(name, line)| {
        format!("{}:{line}: ", printable(name))
    })
}

fn as_text(
    report: &Report,
    names: &[String],
    imported: Option<&Imported>,
    file: Option<&Path>,
) -> String {
    let mut lines = Vec::new();
    let Some(imported) = imported else {
        let mistakes = report.mistakes();
        for mistake in &mistakes {
            lines.push(format!(
                "{}{}",
                at(mistake.place, names),
                printable(&mistake.text)
            ));
        }
        let count = counted(mistakes.len(), "problem");
        lines.push(format!("vmlan: nothing was imported: {count}"));
        return lines.join("\n") + "\n";
    };
    let notes = report.notes();
    for note in &notes {
        lines.push(format!("{}{note}", at(Some(note.place), names)));
    }
    let count = |fate| notes.iter().filter(|note| note.fate == fate).count();
    let place = file.map_or_else(String::new, |file| format!(" to {}", file.display()));
    lines.push(format!(
        "imported {}{place}: {} different, {} ignored, {} to decide",
        counted(imported.networks, "network"),
        count(Fate::Different),
        count(Fate::Ignored),
        count(Fate::Decide)
    ));
    lines.join("\n") + "\n"
}

fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn as_json(
    report: &Report,
    names: &[String],
    imported: Option<&Imported>,
    file: Option<&Path>,
) -> Value {
    let name = |place: Option<Place>| place.and_then(|place| names.get(place.file));
    let line = |place: Option<Place>| place.map(|place| place.line);
    let notes = report.notes().into_iter().map(|note| {
        let place = Some(note.place);
        json!({
            "file": name(place), "line": line(place), "setting": note.setting,
            "fate": note.fate, "why": note.why, "action": note.action,
        })
    });
    let problems = report.mistakes().into_iter().map(|mistake| {
        let place = mistake.place;
        json!({ "file": name(place), "line": line(place), "text": mistake.text })
    });
    let written = imported.and(file).map(|file| file.display().to_string());
    let text = imported
        .filter(|_| file.is_none())
        .map(|imported| &imported.text);
    json!({
        "files": names,
        "output": written,
        "configuration": text,
        "report": notes.collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
    })
}

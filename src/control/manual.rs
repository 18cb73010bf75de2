//! The manual page, made from the command line's own description of itself.

use std::io::{self, Write};

use clap::Command;

/// Writes the manual page: the whole command, and then a section for each of those within it.
///
/// # Errors
///
/// It cannot be written.
pub fn write(mut command: Command, out: &mut impl Write) -> io::Result<()> {
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    // The commands within it are listed as if each had a page of its own.
    let mut page = String::from_utf8_lossy(&page).into_owned();
    for within in command.get_subcommands().map(Command::get_name) {
        page = page.replace(&format!("vmlan\\-{within}(1)"), &format!("vmlan {within}"));
    }
    let mut page = page.into_bytes();
    sections(&command, &mut page)?;
    out.write_all(&page)
}

fn sections(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let within = command.get_subcommands();
    for command in within.filter(|command| command.get_name() != "help") {
        page.extend(section(command)?.into_bytes());
        sections(command, page)?;
    }
    Ok(())
}

fn section(command: &Command) -> io::Result<String> {
    let mut section = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    writeln!(
        section,
        ".SH \"{}\"",
        command.get_bin_name().unwrap_or_default().to_uppercase()
    )?;
    man.render_description_section(&mut section)?;
    man.render_options_section(&mut section)?;
    Ok(String::from_utf8_lossy(&section)
        .replace(".SH DESCRIPTION\n", "")
        .replace(".SH OPTIONS\n", ".PP\n"))
}

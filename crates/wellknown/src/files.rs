//! The files that a person takes from here: documents, Helm values, snippets, records.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_cli::{make_directory, write_file};
use ess_document::RecordChange;

use crate::documents::{Documents, additional};
use crate::records::shown;

/// What the files are made of.
pub(crate) struct Files<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) server_name: &'a str,
    pub(crate) host: &'a str,
    pub(crate) rtc_host: Option<&'a str>,
    pub(crate) documents: &'a Documents,
    pub(crate) records: &'a [RecordChange],
}

impl Files<'_> {
    /// Writes them all.
    pub(crate) fn write(&self) -> anyhow::Result<Vec<PathBuf>> {
        make_directory(self.directory)?;
        let mut written = Vec::new();
        let mut write = |name: &str, text: String| {
            let path = self.directory.join(name);
            write_file(&path, text.as_bytes())?;
            written.push(path);
            anyhow::Ok(())
        };
        for (name, document) in self.documents {
            let text = serde_json::to_string_pretty(document).context("cannot write a document")?;
            write(name, text + "\n")?;
        }
        write("values.yaml", self.values())?;
        write("nginx.conf", self.nginx())?;
        write("Caddyfile", self.caddy())?;
        let lines: Vec<String> = self.records.iter().map(|change| shown(change) + "\n").collect();
        write("dns.txt", lines.concat())?;
        Ok(written)
    }

    fn values(&self) -> String {
        let additional = additional(self.documents, self.rtc_host);
        let rtc = self.rtc_host.map_or_else(String::new, |host| {
            format!("matrixRTC:\n  ingress:\n    host: {}\n", quoted(host))
        });
        let texts: Vec<String> = additional
            .iter()
            .map(|(name, text)| format!("    {name}: {}\n", quoted(text)))
            .collect();
        format!(
            "# ESS's wellKnownDelegation, when it is to serve the documents itself. m.homeserver and m.server are the\n\
             # chart's own, made of synapse.ingress.host.\n\
             serverName: {}\n\
             synapse:\n  ingress:\n    host: {}\n\
             {rtc}\
             wellKnownDelegation:\n  enabled: true\n  additional:\n{}",
            quoted(self.server_name),
            quoted(self.host),
            texts.concat(),
        )
    }

    fn nginx(&self) -> String {
        let locations: Vec<String> = self
            .documents
            .keys()
            .map(|name| {
                format!(
                    "location = /.well-known/matrix/{name} {{\n    \
                     alias /var/www/matrix-well-known/{name};\n    \
                     default_type application/json;\n    \
                     add_header Access-Control-Allow-Origin * always;\n\
                     }}\n"
                )
            })
            .collect();
        format!(
            "# For the server block of {}, where nginx serves it on. Copy the documents beside this file to\n\
             # /var/www/matrix-well-known, where nginx may read them.\n{}",
            self.server_name,
            locations.concat()
        )
    }

    fn caddy(&self) -> String {
        let handles: Vec<String> = self
            .documents
            .keys()
            .map(|name| {
                format!(
                    "handle /.well-known/matrix/{name} {{\n\
                     \theader Content-Type application/json\n\
                     \theader Access-Control-Allow-Origin *\n\
                     \troot * /var/www/matrix-well-known\n\
                     \trewrite * /{name}\n\
                     \tfile_server\n\
                     }}\n"
                )
            })
            .collect();
        format!(
            "# For the site block of {}, where Caddy serves it on. Copy the documents beside this file to\n\
             # /var/www/matrix-well-known, where Caddy may read them.\n{}",
            self.server_name,
            handles.concat()
        )
    }
}

/// A string of YAML that nothing reads otherwise.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

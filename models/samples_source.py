"""Short program and document texts in many languages; ``@slots@`` are filled by `samples_files`."""

from __future__ import annotations

_WORDS = (
    "amber anchor autumn basin beacon branch bridge canyon cedar circle copper coral cotton crystal delta ember "
    "fabric falcon forest garden glacier granite harbor harvest hazel island ivory jasmine juniper kettle lantern "
    "lemon magnet maple marble meadow mirror molten mortar needle nickel oasis orchid oyster paper pebble pepper "
    "pillow planet plaster prairie quarry quartz radar raven ribbon river saddle salmon sapphire scarlet shadow "
    "silver spruce summit sunset tunnel turbine valley velvet violet walnut willow winter yellow zephyr"
)
WORDS = tuple(_WORDS.split())
"""What the slots are filled with."""

_HTML = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>@Alpha@ and @beta@</title>
  <link rel="stylesheet" href="/static/@gamma@.css">
</head>
<body>
  <h1 class="title">@Alpha@</h1>
  <p>@text@</p>
  <ul>
    <li><a href="/@beta@">@Beta@</a></li>
    <li><a href="/@gamma@">@Gamma@</a></li>
  </ul>
  <script>document.querySelector(".title").dataset.ready = "1";</script>
</body>
</html>
"""

_XML = """<?xml version="1.0" encoding="UTF-8"?>
<catalog xmlns="http://example.com/@alpha@">
  <item id="1" kind="@beta@"><name>@Alpha@</name><price currency="EUR">12.50</price></item>
  <item id="2" kind="@gamma@"><name>@Beta@</name><price currency="EUR">7.90</price></item>
  <note>@text@</note>
</catalog>
"""

_SVG = """<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="120" height="80" viewBox="0 0 120 80">
  <title>@alpha@</title>
  <rect id="@beta@" x="4" y="4" width="112" height="72" rx="6" fill="#eef" stroke="#334"/>
  <circle cx="40" cy="40" r="18" fill="tomato"/>
  <path d="M60 20 L100 20 L80 60 Z" fill="none" stroke="black" stroke-width="2"/>
  <text x="10" y="74" font-size="9">@gamma@</text>
</svg>
"""

_CSS = """@import url("@alpha@.css");
:root { --@beta@: #223344; --gap: 12px; }
body { margin: 0; font-family: "Helvetica Neue", Arial, sans-serif; color: var(--@beta@); }
.@gamma@ > li:hover { background: rgba(0, 0, 0, 0.08); padding: var(--gap) 2em; }
@media (max-width: 640px) {
  .@gamma@ { display: flex; flex-direction: column; }
  #@alpha@ { display: none; }
}
"""

_JAVASCRIPT = """'use strict';
const fs = require('fs');

/** @text@ */
function load@Alpha@(path, callback) {
  fs.readFile(path, 'utf8', (err, data) => {
    if (err) { return callback(err); }
    const @beta@ = JSON.parse(data).filter((row) => row.active && row.score > 10);
    callback(null, @beta@.map(({ id, name }) => `${id}: ${name}`));
  });
}

class @Gamma@ {
  constructor(options = {}) { this.options = Object.assign({ retries: 3 }, options); }
  async run() { for (let i = 0; i < this.options.retries; i++) { await this.step(i); } }
}

module.exports = { load@Alpha@, @Gamma@ };
"""

_C = """/* @text@ */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_@Alpha@ 64

struct @beta@ { int id; char name[MAX_@Alpha@]; struct @beta@ *next; };

static struct @beta@ *push(struct @beta@ *head, int id, const char *name)
{
    struct @beta@ *node = malloc(sizeof(*node));
    if (node == NULL) { perror("malloc"); exit(EXIT_FAILURE); }
    node->id = id;
    strncpy(node->name, name, MAX_@Alpha@ - 1);
    node->next = head;
    return node;
}

int main(int argc, char **argv)
{
    struct @beta@ *head = NULL;
    for (int i = 1; i < argc; i++) head = push(head, i, argv[i]);
    for (struct @beta@ *p = head; p; p = p->next) printf("%d %s @gamma@\\n", p->id, p->name);
    return 0;
}
"""

_CPP = """// @text@
#include <iostream>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace @alpha@ {

template <typename T>
class @Beta@ {
 public:
  explicit @Beta@(std::size_t capacity) { items_.reserve(capacity); }
  void add(T value) { items_.push_back(std::move(value)); }
  const std::vector<T>& items() const noexcept { return items_; }

 private:
  std::vector<T> items_;
};

}  // namespace @alpha@

int main() {
  auto box = std::make_unique<@alpha@::@Beta@<std::string>>(8);
  box->add("@gamma@");
  for (const auto& item : box->items()) std::cout << item << std::endl;
  return 0;
}
"""

_JAVA = """package com.example.@alpha@;

import java.util.ArrayList;
import java.util.List;

/** @text@ */
public class @Beta@ implements Runnable {
    private final List<String> names = new ArrayList<>();

    public @Beta@(String first) { this.names.add(first); }

    @Override
    public void run() {
        for (String name : names) {
            System.out.println("@gamma@ " + name);
        }
    }

    public static void main(String[] args) throws InterruptedException {
        Thread thread = new Thread(new @Beta@("@alpha@"));
        thread.start();
        thread.join();
    }
}
"""

_GO = """// Package @alpha@ does one thing. @text@
package @alpha@

import (
	"errors"
	"fmt"
	"sync"
)

var ErrEmpty = errors.New("@alpha@: no @beta@")

type @Beta@ struct {
	mu    sync.Mutex
	items map[string]int
}

func (b *@Beta@) Add(name string) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if name == "" {
		return 0, fmt.Errorf("add: %w", ErrEmpty)
	}
	b.items[name]++
	return b.items[name], nil
}
"""

_RUST = """//! @text@
use std::collections::HashMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum @Alpha@ { Empty, Named(String), Numbered { id: u32 } }

impl fmt::Display for @Alpha@ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            @Alpha@::Empty => write!(f, "-"),
            @Alpha@::Named(name) => write!(f, "{}", name),
            @Alpha@::Numbered { id } => write!(f, "#{}", id),
        }
    }
}

pub fn count(@beta@: &[@Alpha@]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for item in @beta@.iter() { *counts.entry(item.to_string()).or_insert(0) += 1; }
    counts
}
"""

_SHELL = """#!/bin/bash
# @text@
set -euo pipefail

readonly @alpha@_dir="${1:-/tmp/@beta@}"
if [[ ! -d "$@alpha@_dir" ]]; then
    mkdir -p "$@alpha@_dir" || exit 1
fi

for file in "$@alpha@_dir"/*.log; do
    [ -e "$file" ] || continue
    echo "compressing $file"
    gzip -9 "$file" && rm -f "$file.bak"
done
find "$@alpha@_dir" -name '@gamma@*' -mtime +7 | xargs -r rm --
"""

_SQL = """-- @text@
CREATE TABLE @alpha@ (
    id INTEGER PRIMARY KEY,
    name VARCHAR(80) NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_@alpha@_name ON @alpha@ (name);
INSERT INTO @alpha@ (id, name) VALUES (1, '@beta@'), (2, '@gamma@');
SELECT a.name, COUNT(*) AS total FROM @alpha@ a LEFT JOIN orders o ON o.owner_id = a.id
WHERE a.created_at >= '2024-01-01' GROUP BY a.name HAVING COUNT(*) > 2 ORDER BY total DESC LIMIT 10;
"""

_YAML = """---
# @text@
version: "3.8"
services:
  @alpha@:
    image: registry.example.com/@alpha@:1.4.2
    restart: always
    environment:
      - LEVEL=debug
      - NAME=@beta@
    ports:
      - "8080:80"
  @gamma@:
    build: ./@gamma@
    depends_on: [@alpha@]
volumes:
  data: {}
"""

_INI = """; @text@
[@alpha@]
enabled = true
path = /var/lib/@beta@
timeout = 30

[logging]
level = INFO
file = @gamma@.log
rotate = daily
"""

_TOML = """# @text@
title = "@Alpha@"

[package]
name = "@alpha@"
version = "0.3.1"
authors = ["@Beta@ <@beta@@example.com>"]
edition = "2021"

[dependencies]
@gamma@ = { version = "1.2", features = ["derive"] }
serde = "1.0"

[[bin]]
name = "@beta@"
path = "src/main.rs"
"""

_MARKDOWN = """# @Alpha@

@text@

## Installation

```bash
pip install @alpha@
```

## Usage

* Read the [guide](https://example.com/@beta@).
* Run `@alpha@ --help` for **all** options.

| option | meaning |
| --- | --- |
| `--@gamma@` | @text@ |

> Note: this is *experimental*.
"""

SOURCES: dict[str, str] = {
    "html": _HTML,
    "xml": _XML,
    "svg": _SVG,
    "css": _CSS,
    "javascript": _JAVASCRIPT,
    "c": _C,
    "cpp": _CPP,
    "java": _JAVA,
    "go": _GO,
    "rust": _RUST,
    "shell": _SHELL,
    "sql": _SQL,
    "yaml": _YAML,
    "ini": _INI,
    "toml": _TOML,
    "markdown": _MARKDOWN,
}
"""A text for each label of Magika's label space."""

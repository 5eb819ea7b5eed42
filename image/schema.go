package image

import _ "embed"

// ManifestSchema is the JSON Schema of a manifest. What it refuses ParseManifest
// refuses too; that also looks at what a schema cannot tell, such as names that
// are there twice.
//
//go:embed manifest.schema.json
var ManifestSchema []byte

// Read a file as the hub's pages do: parameters, types, the label in its name, and metadata that JSON takes.
//   node huggingface.mjs FILE LABEL
import assert from "node:assert/strict";
import { basename } from "node:path";
import { GGMLFileQuantizationType, GGMLQuantizationType, gguf, parseGGUFQuantLabel } from "@huggingface/gguf";

const [path, label] = process.argv.slice(2);
const { metadata, tensorInfos } = await gguf(path, { allowLocalFile: true });
assert.equal(parseGGUFQuantLabel(basename(path)), label, "the label in the file's name");
const known = Object.keys(GGMLFileQuantizationType);
assert.ok(known.includes(`MOSTLY_${label}`) || known.includes(label), `the hub does not know the label ${label}`);
const type = GGMLFileQuantizationType[metadata["general.file_type"]];
assert.ok(type === label || type === `MOSTLY_${label}`, `general.file_type is ${type}`);
assert.ok(tensorInfos.every((tensor) => GGMLQuantizationType[tensor.dtype] !== undefined), "a type has no name");
const own = Object.entries(metadata).filter(([key]) => key.startsWith("lieq."));
assert.ok(own.length > 10, "the keys lieq.* are missing");
// The package's own counts are BigInts in every file.
const counts = ["version", "tensor_count", "kv_count"];
JSON.stringify(Object.fromEntries(Object.entries(metadata).filter(([key]) => !counts.includes(key))));
const weights = tensorInfos.reduce((sum, tensor) => sum + Number(tensor.shape.reduce((a, b) => a * b)), 0);
assert.ok(weights > 1e8);
console.log(`label ${label}, file type ${type}, ${weights} weights`);

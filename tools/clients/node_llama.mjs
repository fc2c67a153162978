// Load a file in node-llama-cpp: metadata as JSON, a greedy text, and a chat with the file's own template.
//   node node_llama.mjs FILE
import assert from "node:assert/strict";
import { getLlama, LlamaChatSession, LlamaCompletion, readGgufFileInfo } from "node-llama-cpp";

const [path] = process.argv.slice(2);
const info = await readGgufFileInfo(path);
assert.ok(JSON.stringify(info.metadata).includes("\"lieq\""), "the keys lieq.* are missing");
const llama = await getLlama({ gpu: false, build: "never", logLevel: "warn" });
const model = await llama.loadModel({ modelPath: path });
const context = await model.createContext({ contextSize: 512, sequences: 2 });
const completion = new LlamaCompletion({ contextSequence: context.getSequence() });
const text = await completion.generateCompletion("The capital of France is", { maxTokens: 4, temperature: 0 });
assert.match(text, /Paris/);
completion.dispose();
const session = new LlamaChatSession({ contextSequence: context.getSequence() });
const answer = await session.prompt("What is the capital of France?", { maxTokens: 24, temperature: 0 });
assert.match(answer, /Paris/);
console.log(`${model.fileInsights.modelSize} bytes; ${JSON.stringify(answer)}`);
await llama.dispose();
process.exit(0);

// Run a GGUF file in llama.cpp and write down what it predicts, so that two machines can be compared.
//
//   run MODEL TEXT OUT REPACK NEW THREADS
//
// Reads the text through the model in one batch, then goes on by NEW tokens, each the most probable one, one at a time.
// OUT gets three int32 (tokens of the text, NEW, vocabulary), the ids of all these tokens as int32, and the logits after
// each of them but the last as float32. REPACK is 1 (llama.cpp's default) or 0 (--no-repack). The log is on stderr.

#include "ggml-backend.h"
#include "llama.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

static void fail(const char * reason) {
    fprintf(stderr, "error: %s\n", reason);
    exit(1);
}

static std::vector<llama_token> tokenize(const llama_vocab * vocab, const std::string & text) {
    std::vector<llama_token> ids(text.size() + 8);
    const int count = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(), true, false);
    if (count <= 0) {
        fail("the text cannot be tokenized");
    }
    ids.resize(count);
    return ids;
}

// Decode tokens from a position on; the logits after each of them are added to `logits`.
static void decode(llama_context * context, const std::vector<llama_token> & ids, int first, int vocabulary,
                   std::vector<float> & logits) {
    llama_batch batch = llama_batch_init(ids.size(), 0, 1);
    for (size_t i = 0; i < ids.size(); i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = first + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    batch.n_tokens = ids.size();
    if (llama_decode(context, batch) != 0) {
        fail("llama_decode failed");
    }
    const float * values = llama_get_logits(context);
    logits.insert(logits.end(), values, values + ids.size() * vocabulary);
    llama_batch_free(batch);
}

int main(int argc, char ** argv) {
    if (argc != 7) {
        fail("run MODEL TEXT OUT REPACK NEW THREADS");
    }
    std::ifstream input(argv[2], std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(input)), std::istreambuf_iterator<char>());
    const int32_t more = atoi(argv[5]);

    ggml_backend_load_all();
    llama_backend_init();
    fprintf(stderr, "%s\n", llama_print_system_info());

    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.use_extra_bufts = atoi(argv[4]) != 0;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (model == nullptr) {
        fail("the model cannot be loaded");
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int32_t vocabulary = llama_vocab_n_tokens(vocab);

    std::vector<llama_token> ids = tokenize(vocab, text);
    const int32_t given = ids.size();
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = given + more;
    params.n_threads = params.n_threads_batch = atoi(argv[6]);
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        fail("there is no context");
    }

    std::vector<float> logits;
    decode(context, ids, 0, vocabulary, logits);
    for (int i = 0; i < more; i++) {
        const auto last = logits.end() - vocabulary;
        ids.push_back(std::max_element(last, logits.end()) - last);
        if (i + 1 < more) {
            decode(context, {ids.back()}, given + i, vocabulary, logits);
        }
    }

    std::ofstream output(argv[3], std::ios::binary);
    const int32_t sizes[] = {given, more, vocabulary};
    output.write(reinterpret_cast<const char *>(sizes), sizeof(sizes));
    output.write(reinterpret_cast<const char *>(ids.data()), ids.size() * sizeof(llama_token));
    output.write(reinterpret_cast<const char *>(logits.data()), logits.size() * sizeof(float));
    output.close();
    if (!output) {
        fail("the result cannot be written");
    }
    llama_free(context);
    llama_model_free(model);
}

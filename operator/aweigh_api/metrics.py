"""Names of the Prometheus metrics: the runtime writes them, dashboards and autoscalers read them.

Own names carry base units; the aliases are vLLM's names for the same figures, so that dashboards,
KEDA triggers and gateways made for vLLM work unchanged.
"""

REQUESTS_RUNNING = "aweigh_requests_running"
REQUESTS_WAITING = "aweigh_requests_waiting"
REQUESTS = "aweigh_requests_total"  # label finish_reason
PROMPT_TOKENS = "aweigh_prompt_tokens_total"
GENERATED_TOKENS = "aweigh_generated_tokens_total"
TIME_TO_FIRST_TOKEN = "aweigh_time_to_first_token_seconds"
INTER_TOKEN_LATENCY = "aweigh_inter_token_latency_seconds"
REQUEST_LATENCY = "aweigh_request_latency_seconds"
STEP_DURATION = "aweigh_step_duration_seconds"

VLLM_ALIASES = {
    REQUESTS_RUNNING: "vllm:num_requests_running",
    REQUESTS_WAITING: "vllm:num_requests_waiting",
    REQUESTS: "vllm:request_success_total",
    PROMPT_TOKENS: "vllm:prompt_tokens_total",
    GENERATED_TOKENS: "vllm:generation_tokens_total",
    TIME_TO_FIRST_TOKEN: "vllm:time_to_first_token_seconds",
    INTER_TOKEN_LATENCY: "vllm:inter_token_latency_seconds",
    REQUEST_LATENCY: "vllm:e2e_request_latency_seconds",
}
MODEL_LABEL = "model_name"

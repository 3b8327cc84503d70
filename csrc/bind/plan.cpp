// A plan: the kernel calls of a step, recorded once and then run again by one call of gollm_run_plan.
//
// The calls hold addresses, so the memory behind them has to stay. What a step allocates while it is recorded comes from a
// pool of the plan's own: arrays that Python lets go of are used again by later calls, as ever, but no block leaves the pool
// as long as the plan lives. Of all other arrays (weights, moments, tokens) the plan keeps a reference. Between two runs the
// contents of the pool's free blocks matter to nobody, so that the memory can be lent to other work on the same thread.
#include "pool.h"

#include <pybind11/typing.h>

#include <atomic>
#include <deque>
#include <string>

namespace {

class Plan;
struct Use {
    Plan *plan;
    bool recording; // else lending
};
thread_local Use current;

// What a plan is used for: by any number of runs at once, or by one thread for something that a run must not meet.
class Usage {
  public:
    bool start_run() {
        int now = users.load();
        while (now >= 0 && !users.compare_exchange_weak(now, now + 1)) {
        }
        return now >= 0;
    }
    void end_run() { users--; }
    bool start_alone() {
        int none = 0;
        return users.compare_exchange_strong(none, ALONE);
    }
    void end_alone() { users = 0; }

  private:
    static constexpr int ALONE = -1;
    std::atomic<int> users{0}; // how many run it
};

class Plan : public Made {
  public:
    ~Plan() {
        pool_->release();
    } // what lives on in the pool, such as gradients, keeps the pool but not its free blocks
    void begin() { use(true); }
    void lend() { use(false); }

    void end() {
        if (current.plan != this) raise_error("GollmError", "this plan is not being recorded, nor lending, here");
        current = {};
        usage_.end_alone();
        py::cast(this).dec_ref();
    }

    void append(const gollm_kernel *kernel, const int64_t *words, int n_words, const Arrays &arrays) {
        words_.emplace_back(words, words + n_words);
        calls_.push_back({kernel, words_.back().data()});
        for (const Array &array : arrays)
            if (array.object && !pool_->owns(array.data)) keep(array.object);
    }

    void clear() {
        start_alone();
        forget();
        usage_.end_alone();
    }

    void run() {
        if (current.plan) raise_error("GollmError", "a plan cannot run while one is recorded or lends its memory");
        if (pool_->lent()) raise_error("GollmError", "a plan cannot run while memory that it has lent is in use");
        if (!usage_.start_run()) raise_error("GollmError", IN_USE);
        const Running running(&usage_);
        int64_t failed;
        int status;
        {
            WithoutGil released;
            status = gollm_run_plan(calls_.data(), (int64_t)calls_.size(), &failed);
        }
        if (status != GOLLM_OK)
            raise_error("KernelError",
                        std::string(calls_[(size_t)failed].kernel->name) + ": " + gollm_status_message(status));
    }

    py::typing::List<py::str> kernels() {
        const bool own = current.plan == this;
        if (!own && !usage_.start_run()) raise_error("GollmError", IN_USE);
        const Running running(own ? nullptr : &usage_);
        py::typing::List<py::str> names;
        for (const gollm_call &call : calls_) names.append(call.kernel->name);
        return names;
    }

    Pool *pool() const { return pool_.get(); }

  private:
    static constexpr const char *IN_USE =
        "this plan is in use: it runs, is recorded or lends its memory; wait for the end of that";

    struct Running { // nullptr: nothing to end
        Usage *usage;
        explicit Running(Usage *of) : usage(of) {}
        Running(const Running &) = delete;
        ~Running() {
            if (usage) usage->end_run();
        }
    };

    void start_alone() {
        if (!usage_.start_alone()) raise_error("GollmError", IN_USE);
    }

    // NumPy never frees the memory of an array with a weak reference, not even by resize(..., refcheck=False).
    void keep(const py::object &array) {
        kept_.push_back(array);
        for (py::object owner = array; py::isinstance<py::array>(owner); owner = owner.attr("base"))
            kept_.push_back(py::weakref(owner));
    }

    void forget() {
        calls_.clear();
        words_.clear();
        kept_.clear();
        pool_->release();
    }

    void use(bool recording) { // keeps the plan alive until end()
        if (current.plan) raise_error("GollmError", "a plan cannot be used while one is recorded or lends its memory");
        start_alone();
        if (recording) forget();
        py::cast(this).inc_ref();
        current = {this, recording};
    }

    std::shared_ptr<Pool> pool_ = std::make_shared<Pool>();
    std::vector<gollm_call> calls_;
    std::deque<std::vector<int64_t>> words_; // the calls' arguments
    std::vector<py::object> kept_;
    Usage usage_;
};

} // namespace

PoolInUse pool_in_use() {
    if (!current.plan) return {nullptr, false};
    return {current.plan->pool(), !current.recording};
}

void record_call(const gollm_kernel *kernel, const int64_t *words, int n_words, const Arrays &arrays) {
    if (current.plan && current.recording) current.plan->append(kernel, words, n_words, arrays);
}

void bind_plan(py::module_ &m) {
    py::class_<Plan>(m, "Plan")
        .def(made<Plan>())
        .def("begin", &Plan::begin, "Forgets what was recorded and records this thread's kernel calls until end().")
        .def("lend", &Plan::lend, "Gives this thread's arrays the plan's memory until end().")
        .def("end", &Plan::end)
        .def("clear", &Plan::clear, "Forgets what was recorded and frees the memory.")
        .def("run", &Plan::run, "Runs the recorded calls; raises KernelError as the one that failed would.")
        .def("kernels", &Plan::kernels, "The names of the recorded calls' kernels.");
    m.def(
        "plan_is_recording", [] { return current.plan && current.recording; },
        "Whether this thread's kernel calls are recorded.");
}
